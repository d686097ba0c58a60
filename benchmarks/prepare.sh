#!/usr/bin/env bash
# What gpu.sh needs and a machine without a network lacks: packages for its Python, 3.12 unless PYTHON_VERSION says else.
# They go into work/site, 10 MB.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
core=$($python -c 'import importlib.metadata as m; print(m.version("pydantic_core"))')
$python -m pip download -q --no-deps --only-binary=:all: --python-version "${PYTHON_VERSION:-3.12}" \
  --platform manylinux2014_x86_64 --platform any -d work/site \
  diffusers importlib_metadata zipp pydantic "pydantic_core==$core" typing_inspection annotated_types platformdirs defusedxml
du -sh work/site
