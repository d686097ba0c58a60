#!/usr/bin/env bash
# What gpu.sh needs and a machine without a network lacks: packages for its Python, 3.12 unless PYTHON_VERSION says else.
# They go into work/site, 10 MB, in the versions that this environment was tested with.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
names="diffusers importlib_metadata zipp pydantic pydantic_core typing_inspection annotated_types platformdirs defusedxml"
# pydantic and its core are a pair: every version from one place, so that no newer one of either comes alone.
pinned=$($python - $names <<'EOF'
import importlib.metadata
import sys

for name in sys.argv[1:]:
    print(f"{name}=={importlib.metadata.version(name)}")
EOF
)
rm -rf work/site
$python -m pip download -q --no-deps --only-binary=:all: --python-version "${PYTHON_VERSION:-3.12}" \
  --platform manylinux2014_x86_64 --platform any -d work/site $pinned
du -sh work/site
