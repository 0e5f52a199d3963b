PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help demo test slow bench lint format assets constraints clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(READY) ## train, quantize, verify and time a small ResNet, offline, in about a minute
	$(BIN)/python examples/demo.py

test: $(READY) ## run the tests, two files at a time
	$(BIN)/python -m pytest -n 2 --dist loadfile

slow: $(READY) ## run the longer proofs, some against PyTorch and OpenVINO
	$(BIN)/python -m pip install --quiet 'torch>=2.4' 'openvino>=2026.1'
	$(BIN)/python -m pytest -m slow

bench: $(READY) ## measure training throughput, the input pipeline, export and inference
	$(BIN)/python benchmarks/train_throughput.py
	$(BIN)/python benchmarks/train_throughput.py --precision float32
	$(BIN)/python benchmarks/input_pipeline.py
	$(BIN)/python benchmarks/export_cost.py
	$(BIN)/python benchmarks/inference_latency.py

lint: $(READY) ## check style
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(READY) ## put the code into its style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

assets: $(READY) ## make the bundled model and sample again, from all of Fashion-MNIST (an hour on two cores)
	$(BIN)/python -m resnet_keras.assets.make_sample
	rm -rf resnet_keras/assets/fashion_resnet20
	$(BIN)/python -m resnet_keras.train --recipe fashion --out resnet_keras/assets/fashion_resnet20
	@echo "Save model.keras again with keras 3.12 (Python 3.10): older versions cannot read what newer ones save."

constraints: ## pin the newest versions for every supported Python
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q uv
	{ echo "# The versions that were tested, for every supported Python. Remade by: make constraints"; \
	  $(BIN)/uv pip compile -q --universal --python-version 3.10 --all-extras --no-annotate --no-header \
	  --no-emit-index-url --no-emit-find-links pyproject.toml; } > constraints.txt.partial
	mv constraints.txt.partial constraints.txt

clean: ## remove everything that make made
	rm -rf .venv runs *.egg-info .pytest_cache .ruff_cache

# The stamp stands for a finished installation: an interrupted one is done again.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "Python 3.10 to 3.13 is needed; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv module is missing. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "setting up .venv (once; some minutes, mostly tensorflow)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	@touch $(READY)
