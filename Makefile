# `make demo` and `make test` set up what they need inside the checkout, then do their job.
.DEFAULT_GOAL := help
.PHONY: help demo test lint notebooks bench peers clean

# Optional: the Python to build .venv with, the index that torch comes from, and arguments for the command.
PYTHON ?=
TORCH_INDEX ?=
ARGS ?=
export TORCH_INDEX

# Nothing of the caller's Python reaches the environment.
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP VIRTUAL_ENV PIP_USER PIP_TARGET PIP_PREFIX
export PYTHONNOUSERSITE := 1

BIN := .venv/bin
CANDIDATES := $(if $(PYTHON),$(PYTHON),python3.13 python3.12 python3.11 python3)

define environment
@for python in $(CANDIDATES); do \
	if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		exec "$$python" .ci/environment.py $(1); \
	fi; \
done; \
echo "fedpriv needs Python 3.11 or newer; none of these is: $(CANDIDATES)."; \
echo "Install one (https://www.python.org/downloads/) or name it: make $@ PYTHON=/path/to/python3"; \
exit 1
endef

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1@/p' $(MAKEFILE_LIST) | while IFS=@ read -r target text; do \
		printf '  make %-10s %s\n' "$$target" "$$text"; done
	@echo
	@echo '  ARGS="..."         arguments for demo, test (names of stages) and bench'
	@echo '  PYTHON=...         the Python to build .venv with; the first of python3.13, 3.12, 3.11 and python3 else'
	@echo '  TORCH_INDEX=...    where torch comes from, e.g. https://download.pytorch.org/whl/cpu'

demo: ## one comparison over real data with real cryptography: a table, a figure, results/demo/
	$(call environment,core)
	@$(BIN)/fedpriv demo $(ARGS)

test: ## every check, each stage against its time budget
	$(call environment,dev)
	@$(BIN)/python .ci/stages.py $(ARGS)

lint: ## lint, format, types, imports
	$(call environment,dev)
	@$(BIN)/python .ci/stages.py static

notebooks: ## run every notebook
	$(call environment,dev)
	@$(BIN)/python .ci/stages.py notebooks

bench: ## benchmarks: ARGS="[suite] [--quick]"
	$(call environment,core)
	@$(BIN)/python -m benchmarks $(ARGS)

peers: ## the libraries that benchmarks compare with, in an environment of their own
	$(call environment,peers)

clean: ## remove the environments and caches; results stay
	rm -rf .venv .peers .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find fedpriv tests benchmarks papers .ci -name __pycache__ -type d -prune -exec rm -rf {} +
