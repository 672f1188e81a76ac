# Two commands do everything: `make demo` and `make test`. Both set the environment up first (once).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test lint setup clean

demo: $(READY)
	$(BIN)/tailkeep run studies/demo.yaml
	rm -rf report_files
	cp -R tailkeep-results/demo/report.html tailkeep-results/demo/report_files .
	@echo "The report of the demo is also here: $(CURDIR)/report.html"

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto

setup: $(READY)

# torch comes first: with it there, nothing else pulls another build of it in.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) build dist src/*.egg-info
