# Draws people and builds shards once, trains, validates. A retry goes on where the attempt before has ended.
set -eu
if [ ! -e /data/shards/val/manifest.json ]; then
  rm -rf /data/people /data/shards
  raypose data synth /data/people/train --samples 256 --seed 1
  raypose data synth /data/people/val --samples 64 --seed 2
  raypose data build /data/people/train /data/shards/train
  raypose data build /data/people/val /data/shards/val
fi
raypose train /etc/raypose/run.yaml --continue
raypose val /data/runs/smoke
