# Two commands for people: `make demo` and `make test`. Both set up what they need first.
.PHONY: demo test lint fuzz soak bench setup clean help
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin

help: ## say what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

demo: ## watch a real registry, a real driver and real mounts (root)
	@.ci/setup demo
	@$(BIN)/csi-oras demo

test: setup ## run everything: lint, types, import contracts, tests, csi-sanity
	@.ci/test

lint: setup ## style, types, import contracts
	@.ci/lint

fuzz: setup ## look for new hostile inputs, for FUZZ_SECONDS (3600) on every processor
	@$(BIN)/python -m tests.fuzz

soak: setup ## kill the driver again and again under load (root), for SOAK_ROUNDS (500) and more
	@unshare --mount --propagation private $(BIN)/python -m tests.soak
	@unshare --mount --propagation private $(BIN)/python -m tests.soak.workflows
	@unshare --mount --propagation private $(BIN)/python -m tests.soak.lazy
	@SOAK=1 unshare --mount --propagation private $(BIN)/python -m pytest -q -m soak tests
	@CROWD_TIMES=8 unshare --mount --propagation private $(BIN)/python -m pytest -q tests/test_8_store_crowd.py

bench: setup ## measure against the peers that are on PATH; BENCH="--only far-blob" adds options
	@$(BIN)/python -m benchmarks $(BENCH)

setup:
	@.ci/setup

clean: ## remove what setup made in this directory
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache csi_oras/csi/pb
