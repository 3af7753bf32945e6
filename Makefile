# `make help` lists the targets; each is a script of scripts/, the same for people and CI.
.DEFAULT_GOAL := help
.PHONY: help demo install test test-slow check clean

help:       ## this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */  make \1|/' | column -t -s '|'

demo:       ## install once, then animate a photograph into out/demo.mp4
	@scripts/demo

install:    ## make .venv, once
	@scripts/install

test: install       ## the tests
	@scripts/test

test-slow: install  ## the long tests too
	@scripts/test -m "not gpu"

check: install      ## lint and types
	@scripts/check

clean:      ## remove what was built; keeps .venv, runs/ and out/
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
