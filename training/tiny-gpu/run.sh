#!/usr/bin/env bash
# One call of the larger training on a machine that has a GPU, torch and no network; call it again to go on.
#
#   before, where there is a network:  training/tiny-gpu/prepare.sh PHOTOS
#   there, once for each parcel:       training/tiny-gpu/run.sh RESULTS     with work/photos or work/site brought along
#   there, until it says it is done:   training/tiny-gpu/run.sh RESULTS [SECONDS]
#
# What was brought is kept in $KEPT, so that photos and packages can come in parcels. RESULTS gets a log, the report,
# the newest sample sheet, and the model in pieces: cat model.tar.* | tar x
set -uo pipefail
cd "$(dirname "$0")/../.."
results=$1 seconds=${2:-560} kept=${KEPT:-/tmp/ip2pbatch}
mkdir -p "$results" "$kept"
for part in photos site; do
  [ -d "work/$part" ] && cp -r "work/$part" "$kept/"
  [ -d "$kept/$part" ] || { echo "work/$part is still to come"; exit 0; }
done
if [ ! -d "$kept/packages" ]; then
  python3 -m pip install -q --no-index --no-deps --no-compile --target "$kept/packages" "$kept"/site/*.whl || exit
fi
export PYTHONPATH="$kept/packages:$kept/site" PYTHONUNBUFFERED=1
timeout -s INT "$seconds" python3 -m ip2pbatch train run training/tiny-gpu/evaluate.yaml --photos "$kept/photos" --out work 2>&1 |
  tr '\r' '\n' | tee "$results/log" | tail -40
cp work/evaluate/*/report.md "$results/" 2>/dev/null && echo "it is done"
newest() { ls -td "$@" 2>/dev/null | head -1; }
sheet=$(newest work/finetune/*/samples/*.jpg) model=$(newest work/finetune/*/model)
[ -n "$sheet" ] && cp "$sheet" "$results/samples.jpg"
[ -n "$model" ] && tar c -C "$(dirname "$model")" model | split -b 15000000 - "$results/model.tar."
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
ls -l "$results"
