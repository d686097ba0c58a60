#!/usr/bin/env bash
# The benchmarks that wait for a GPU, on a machine that has one, torch, and no network; call it again to go on.
#
#   before, where there is a network:  benchmarks/prepare.sh
#   there, with work/site brought along: benchmarks/gpu.sh RESULTS [SECONDS] [SUITE...]
#
# RESULTS gets a JSON file a suite and a log: copy the JSON files to benchmarks/ and run
# `ip2pbatch bench --page BENCHMARKS.md`. What is half done, compiled or drawn is kept in $KEPT between calls; where that
# is lost, put the JSON files of RESULTS into benchmarks/ before the next call, and measured passes are not repeated.
set -uo pipefail
cd "$(dirname "$0")/.."
results=$1 seconds=${2:-540} kept=${KEPT:-/tmp/ip2pbatch} flags=${FLAGS:-} python=${PYTHON:-python3}
shift $(($# < 2 ? $# : 2))
[ $# -gt 0 ] || set -- gpu-rate gpu-folder gpu-compiled gpu-edit-cli gpu-grid gpu-memory gpu-busy gpu-ladder
mkdir -p "$results" "$kept/benchmarks"
cp -n benchmarks/gpu-*.json "$kept/benchmarks/" 2>/dev/null
if [ ! -d "$kept/packages" ] && ! "$python" -c 'import diffusers, pydantic, platformdirs' 2>/dev/null; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --target "$kept/packages" work/site/*.whl || exit
fi
export PYTHONPATH="$kept/packages:." PYTHONUNBUFFERED=1 XDG_CACHE_HOME="$kept/cache" TORCHINDUCTOR_CACHE_DIR="$kept/inductor"
end=$((SECONDS + seconds))
for suite in "$@"; do
  left=$((end - SECONDS))
  [ "$left" -gt 20 ] || { echo "time is up before $suite: call again"; break; }
  timeout -s INT "$left" "$python" -m ip2pbatch bench "$suite" --results "$kept/benchmarks" --budget "$left" $flags 2>&1 |
    tee -a "$results/log"
done
cp "$kept"/benchmarks/gpu-*.json "$results/"
command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version,clocks.sm,temperature.gpu --format=csv,noheader
ls -l "$results"
