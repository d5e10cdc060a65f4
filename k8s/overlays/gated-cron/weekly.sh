# A run for each week: retries within the week continue it, the next week begins another.
set -eu
raypose train /etc/raypose/run.yaml "name=pose-$(date +%G-w%V)" --continue
