#!/usr/bin/env bash
# What waits for a GPU, on a machine that has one, torch, and no network; call it again to go on.
#
#   before, where there is a network:  benchmarks/prepare.sh
#   there, with work/site brought along: benchmarks/gpu.sh RESULTS [SECONDS] [STEP...]
#
# A STEP is smoke (the tests that need a GPU, then the demo against the CPU's) or a suite of `ip2pbatch bench`. RESULTS
# gets one archive, gpu.tar.gz, written anew after each step: unpack it in benchmarks/ and run `ip2pbatch bench --page
# BENCHMARKS.md`. What is half done, compiled or drawn is kept in $KEPT between calls; where that is lost, put the
# archive's JSON files into benchmarks/ before the next call, and measured passes are not repeated. FLAGS=--quick tries
# all of it on a CPU.
set -uo pipefail
cd "$(dirname "$0")/.."
results=$1 seconds=${2:-540} kept=${KEPT:-/tmp/ip2pbatch} flags=${FLAGS:-} python=${PYTHON:-python3}
shift $(($# < 2 ? $# : 2))
[ $# -gt 0 ] || set -- smoke gpu-memory gpu-rate gpu-folder gpu-folder-compiled gpu-busy gpu-grid gpu-compiled gpu-edit-cli gpu-ladder
mkdir -p "$results" "$kept/benchmarks"
cp -n benchmarks/gpu-*.json "$kept/benchmarks/" 2>/dev/null
if [ ! -d "$kept/packages" ] && ! "$python" -c 'import diffusers, pydantic, platformdirs' 2>/dev/null; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --target "$kept/packages" work/site/*.whl || exit
fi
export PYTHONPATH="$kept/packages:." PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
export XDG_CACHE_HOME="$kept/cache" TORCHINDUCTOR_CACHE_DIR="$kept/inductor" TRITON_CACHE_DIR="$kept/triton"
end=$((SECONDS + seconds))

limited() { # SECONDS COMMAND...: interrupted in time, killed if that does not help
  timeout -k 10 -s INT "$@"
}

smoke() { # a minute: every kind of kernel that later steps stand on, then the demo in fp16 against a CPU's
  local device=cuda code=0
  [[ $flags == *--quick* ]] && device=cpu
  limited "$1" "$python" -m pytest tests/backends/pytorch/test_on_gpu.py -q -p no:cacheprovider -k "not compiled" || code=$?
  [ -d demo/photos ] || "$python" recipes/demo_photos.py demo/photos
  limited "$1" "$python" -m ip2pbatch run recipes/demo.yaml --device cpu --out "$kept/demo-cpu" --limit 3 || code=$?
  limited "$1" "$python" -m ip2pbatch run recipes/demo.yaml --device $device --out "$kept/demo-gpu" --limit 3 || code=$?
  limited "$1" "$python" -m ip2pbatch verify "$kept/demo-gpu" --against "$kept/demo-cpu" --level perceptual || code=$?
  return $code
}

for step in "$@"; do
  left=$((end - SECONDS)) begun=$SECONDS
  [ "$left" -gt 20 ] || { echo "time is up before $step: call again"; break; }
  {
    if [ "$step" = smoke ]; then
      smoke "$left"
    else
      limited "$left" "$python" -m ip2pbatch bench "$step" --results "$kept/benchmarks" --budget "$left" $flags
    fi
    echo "$step: exit $?, $((SECONDS - begun)) s"
  } 2>&1 | tee -a "$kept/benchmarks/log"
  command -v nvidia-smi >/dev/null &&
    nvidia-smi --query-gpu=name,driver_version,clocks.sm,temperature.gpu,memory.used --format=csv,noheader | tee -a "$kept/benchmarks/log"
  tar -czf "$results/gpu.tar.gz" -C "$kept/benchmarks" .
done
