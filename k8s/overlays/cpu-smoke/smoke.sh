# Draws people and builds shards once, trains, validates. A retry goes on where the attempt before has ended.
set -eu
for split in train val; do
  if [ ! -e "/data/shards/$split/manifest.json" ]; then
    rm -rf "/data/people/$split"
    raypose data synth "/data/people/$split" --samples 128 --seed 1
    raypose data build "/data/people/$split" "/data/shards/$split"
  fi
done
raypose train /etc/raypose/run.yaml --continue
raypose val /data/runs/smoke
