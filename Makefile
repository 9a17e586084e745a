# Two commands on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TESTS := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses logical --maxprocesses 8 --dist loadfile

.PHONY: demo test bench slurm check format

demo: $(VENV)/installed
	$(BIN)/medpeft finetune recipes/isic_ssf.yaml --demo
	$(BIN)/medpeft finetune recipes/isic_linear.yaml --demo
	$(BIN)/medpeft finetune recipes/isic_full.yaml --demo
	$(BIN)/medpeft finetune recipes/isic_lora.yaml --demo
	$(BIN)/medpeft report results/
	$(BIN)/medpeft report results/ --latex
	@echo "Done. Runs, records and adapters are in results/; the tour in README.md says what to do next."

test: $(VENV)/installed
	$(TESTS)

bench: $(VENV)/installed  # on a machine that does nothing else
	$(BIN)/python -m benchmarks

slurm: $(VENV)/installed  # twenty runs through everything that can happen to a job, ten minutes; `test` has five of them
	MEDPEFT_WHOLE_CLUSTER=1 OMP_NUM_THREADS=1 $(BIN)/pytest tests/e2e/test_slurm_cluster.py

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(TESTS)

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/installed: pyproject.toml setup.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medpeft needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@
