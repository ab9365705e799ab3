# Thin aliases of bootstrap.py, for those who have make. Extra arguments: make up ARGS="--port 9000".
# make up EXTRAS=local-models installs small models that run on this machine, too.
PYTHON ?= python3
ARGS ?=
EXTRAS ?=

.PHONY: up test check gen bench faults containers
up test check gen bench faults containers:
	@EXTRAS="$(EXTRAS)" $(PYTHON) bootstrap.py $@ $(ARGS)
