# make install   an environment in .venv with ip2pbatch and all that its demo and tests need
# make demo      edits seven real photos with the embedded model; no network after the installation
# make test      the whole test suite, file by file on two workers (WORKERS=n for another number)
# make check     what a commit must pass besides: ruff, mypy, the import contracts
# make soak      the reliability tests at their full size: hours
# make dist      wheel and sdist of both distributions in dist/, built in an environment of its own and checked
# make check-dist  the same, and what they promise: each installed where nothing else is, at either end of its ranges
# make docs      the documentation site in build/site, its recipes' pictures made by the embedded model; a warning is an error
# make coverage  the test suite, measured, and held to the floor in pyproject.toml
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
BIN := .venv/bin
WORKERS ?= 2
# The tests start a thousand processes: modules are compiled for the first of them, whatever the environment says.
export PYTHONDONTWRITEBYTECODE :=

.NOTPARALLEL:
.PHONY: install demo test check coverage floor soak dist check-dist docs clean

install: .venv/installed

.venv/installed: pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e '.[demo,train,onnx,openvino,dev]'
	touch $@

demo: install
	$(BIN)/python recipes/demo_photos.py demo/photos
	$(BIN)/ip2pbatch run recipes/demo.yaml

# Threads that wait do not spin: two workers share the cores with all that they start. Files go out by name: by their
# number of tests, the few long ones would come last and leave a worker idle.
test: install
	OMP_WAIT_POLICY=passive $(BIN)/python -m $(if $(COVERAGE),coverage run -m )pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

coverage: COVERAGE := 1
coverage: test floor

# Of what `make test COVERAGE=1` has measured.
floor: install
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

soak: install
	$(BIN)/python tests/soak.py

# W002: an embedded model is a folder that is whole by itself, so that two of them hold some files alike.
dist:
	test -x .venv-dist/bin/python || $(PYTHON) -m venv .venv-dist
	.venv-dist/bin/python -m pip install --quiet build twine check-wheel-contents
	rm -rf dist
	.venv-dist/bin/python -m build --outdir dist .
	.venv-dist/bin/python -m build --outdir dist light
	.venv-dist/bin/python -m twine check --strict dist/*
	.venv-dist/bin/check-wheel-contents --ignore W002 dist/*.whl

check-dist: dist
	$(PYTHON) tests/check_dist.py dist

# In an environment of its own: what builds pages is nobody's business who edits photos.
.venv-docs/installed: pyproject.toml
	test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --upgrade pip
	.venv-docs/bin/python -m pip install --quiet --group docs
	touch $@

docs: install .venv-docs/installed
	$(BIN)/python recipes/demo_photos.py build/photos
	$(BIN)/python docs/site_pages.py pages build/docs
	NO_COLOR=1 .venv-docs/bin/zensical build --clean --strict
	$(BIN)/python docs/site_pages.py check build/site

clean:
	rm -rf .venv .venv-dist .venv-docs dist build demo/out
