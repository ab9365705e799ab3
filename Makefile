# Thin aliases of bootstrap.py, for those who have make. Extra arguments: make up ARGS="--port 9000".
PYTHON ?= python3
ARGS ?=

.PHONY: up test check gen bench faults
up test check gen bench faults:
	@$(PYTHON) bootstrap.py $@ $(ARGS)
