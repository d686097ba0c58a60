# make install   an environment in .venv with ip2pbatch and all that its demo and tests need
# make demo      edits seven real photos with the embedded model; no network after the installation
# make test      the whole test suite
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
BIN := .venv/bin

.PHONY: install demo test check soak clean

install: .venv/installed

.venv/installed: pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e '.[demo,train,onnx,dev]'
	touch $@

demo: install
	$(BIN)/python recipes/demo_photos.py demo/photos
	$(BIN)/ip2pbatch run recipes/demo.yaml

test: install
	$(BIN)/python -m pytest

# What a commit must pass besides the tests.
check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

soak: install
	$(BIN)/python tests/soak.py

clean:
	rm -rf .venv demo/out
