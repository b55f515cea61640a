# make demo   environment, caches, evaluation, plot, three questions (15 min)
# make test   environment and tests (15 to 30 min on 2 cores)
# make lint   ruff
# make clean  removes both environments
#
# PYTHON=python3.12 make test   takes another interpreter.

# The first of these that really is Python 3.11 or 3.12.
PYTHON ?= $(firstword $(foreach p,python3 python3.12 python3.11 python,$(shell \
  $(p) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
  >/dev/null 2>&1 && echo $(p))))
DEMO_VENV ?= .venv
TEST_VENV ?= .venv-test
DEMO_ARGS ?=
TEST_ARGS ?=
PIP = -m pip --disable-pip-version-check

.PHONY: demo test lint clean

demo: $(DEMO_VENV)/.installed
	$(DEMO_VENV)/bin/btr demo $(DEMO_ARGS)

# Two workers: a third would pay for one more import of TensorFlow than it
# saves. loadfile keeps a file's tests, and so its fixtures, in one worker, and
# would begin with the files of most tests; tests/conftest.py knows better.
test: $(TEST_VENV)/.installed
	JAX_PLATFORMS=$${JAX_PLATFORMS:-cpu} $(TEST_VENV)/bin/python -m pytest \
	  -n 2 --dist loadfile --no-loadscope-reorder $(TEST_ARGS)

lint: $(TEST_VENV)/.installed
	$(TEST_VENV)/bin/ruff check .

clean:
	rm -rf $(DEMO_VENV) $(TEST_VENV)

define make_venv
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or 3.12 found;" \
	  "install one, or name it: PYTHON=/path/to/python3.12 make $(2)" >&2; \
	  exit 2; }
	@echo "make: $(PYTHON) makes $(1) and installs $(3) into it from PyPI," \
	  "$(4)"
	rm -rf $(1)
	$(PYTHON) -m venv $(1)
	$(1)/bin/python $(PIP) install --quiet --upgrade pip
	$(1)/bin/python $(PIP) install --quiet --editable '$(3)'
	touch $(1)/.installed
endef

$(DEMO_VENV)/.installed: setup.cfg pyproject.toml
	$(call make_venv,$(DEMO_VENV),demo,.,about a minute)

$(TEST_VENV)/.installed: setup.cfg pyproject.toml
	$(call make_venv,$(TEST_VENV),test,.[train$(comma)test$(comma)retrieval],about two minutes)

comma := ,
