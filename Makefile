# make quantize   the bundled network on the bundled images; ARGS="--recipe openvino-w8a8-fast" changes that
# make test       the tests, on every core, 13 minutes on two; ARGS="-k recipe" picks some, and ARGS="-m 'not slow'"
#                 those that take 2 minutes together: all but what tests/slow.txt lists
# make test-avx2  those that execute integers, on the kernels that OpenVINO and torch.compile have without VNNI
# make check      lint, format, types and language
# make bench      what observing, tuning and importing cost, as docs/benchmarks/calibration.md has it
# make format     what the formatter and the fixable lints change
# make docs       the parts of the documents that come from code
# make site       the documents as a site in build/site, with all links checked

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
EXECUTED := tests/adapters/targets tests/adapters/torchao tests/runs/test_input_sizes.py tests/runs/test_verify.py tests/pipeline
OBEY := -k "not (aimet or executorch or litert or ncnn or onnxruntime or paper or snpe or tensorrt)"
NEEDS := pyproject.toml constraints.txt | $(BIN)/python

.PHONY: quantize test test-avx2 check bench format docs site
.DEFAULT_GOAL := quantize

quantize: $(VENV)/.all
	$(BIN)/srptq quantize $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

test-avx2: $(VENV)/.dev
	ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(EXECUTED) $(OBEY) $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/python docs/language.py

bench: $(VENV)/.dev
	$(BIN)/python -W ignore benchmarks/speed.py $(ARGS)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/.dev
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/badges.py

site: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.all: $(NEEDS)
	$(BIN)/python -m pip install -c constraints.txt -e ".[all]"
	@touch $@

$(VENV)/.dev: $(NEEDS)
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	@touch $(VENV)/.all $@
