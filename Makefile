# Two commands: `make demo` sets up and runs the main job, `make test` sets up and passes the tests.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test coverage check format bench clean

demo: $(VENV)/installed
	$(BIN)/overread demo $(ARGS)

test: $(VENV)/dev-installed
	bash tests/install_peers.sh
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

# Following every line takes as long as the tests themselves.
coverage:
	$(MAKE) test ARGS="--cov=node --cov=inference --cov=sr_writer --cov-report=term:skip-covered $(ARGS)"

check: $(VENV)/dev-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev-installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Debian and Ubuntu ship `venv` apart from Python itself.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Overread needs Python 3.11 or newer; '$(PYTHON)' is older. Try: make PYTHON=python3.11 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "Install the venv module first: apt-get install python3-venv"; exit 1; }

$(VENV)/installed: $(BIN)/pip pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/dev-installed: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[export]' --group dev
	@touch $@

clean:
	rm -rf $(VENV) .peers demo build *.egg-info
