# `make help` lists the targets. PYTHON=... picks the interpreter for .venv; USER_ID=... the household that `demo` asks for.
PYTHON ?=
RUN_DIR ?= runs/demo
EXPORT_DIR ?= exports/longretriever
USER_ID ?= 1
PYTEST_ARGS ?=
TEST_WORKERS ?= 2
SERVE_ARGS ?=
LOAD_ARGS ?=
PLAN ?= configs/reproduce/quick.toml
REPRODUCE_ARGS ?=
NOTEBOOK_OUTPUT ?= runs/notebooks
RIVAL_FLAGS ?= configs/demo.flags
RIVAL_DIR ?= .peers/rivals
RIVALS ?= gp_topfreq up_cf ials bpr sasrec gsasrec hstu mult_vae recvae lightgcn
BUDGET ?= 12

PY := .venv/bin/python
STAMP := .venv/.setup-done
.DEFAULT_GOAL := help

$(STAMP): setup.cfg pyproject.toml .ci/setup
	@.ci/setup "$(PYTHON)"

.PHONY: help setup demo reproduce serve serve-smoke load notebooks test test-fast test-beam test-trackers lint format tables lock picture type arch doctest site bench peers rivals doctor clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) ## make .venv and install everything (once; again when setup.cfg changes)
	@:

demo: $(STAMP) ## the whole chain on 1.47M real purchases: train, evaluate, export, recommend; then what to look at
	$(PY) -m longretriever_tf.demo --run_dir=$(RUN_DIR) --export_dir=$(EXPORT_DIR) --user=$(USER_ID)

serve: $(STAMP) ## serve the demo's export by the protocol of TensorFlow Serving: REST on 8501, gRPC on 8500
	$(PY) -m longretriever_tf.serve --model_name=longretriever --model_base_path=$(EXPORT_DIR) \
	    --rest_api_port=8501 --port=8500 $(SERVE_ARGS)

picture: $(STAMP) ## docs/explorer.png anew: the explorer page with household USER_ID of the demo's export (needs Chromium)
	$(PY) .ci/write_picture.py $(EXPORT_DIR) $(USER_ID)

serve-smoke: ## smoke test of the server on 8501 by curl (needs curl and jq)
	serving/smoke_test.sh http://127.0.0.1:8501 longretriever

load: $(STAMP) ## load test of the server on 8501: throughput, p50 / p95 / p99, errors
	$(PY) -m longretriever_tf.serving.load_test --export_dir=$(EXPORT_DIR) $(LOAD_ARGS)

reproduce: $(STAMP) ## run PLAN (configs/reproduce/*.toml) and write its report, HTML and Markdown; resumable
	$(PY) -m longretriever_tf.reproduce --plan=$(PLAN) $(REPRODUCE_ARGS)

notebooks: $(STAMP) ## execute all notebooks; prints the minutes of each, writes their outputs to NOTEBOOK_OUTPUT
	LONGRETRIEVER_USERS=600 LONGRETRIEVER_NOTEBOOK_OUTPUT=$(NOTEBOOK_OUTPUT) $(PY) -m pytest -q -m notebook tests/test_notebooks.py

test: $(STAMP) ## set up and run all tests, in TEST_WORKERS processes
	$(PY) -m pytest --numprocesses=$(TEST_WORKERS) --dist=loadscope --no-loadscope-reorder $(PYTEST_ARGS)

test-fast: $(STAMP) ## the tests without the slow ones
	$(PY) -m pytest -m "not slow and not realdata" $(PYTEST_ARGS)

lint: $(STAMP) ## ruff, and the form of documents, their tables and the notebooks
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) .ci/write_tables.py --check
	$(PY) -m pytest -q --durations=0 --durations-min=60 lint

format: $(STAMP) ## format the code, and fix what ruff can fix
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

tables: $(STAMP) ## write the tables of README.md and docs/ from results/
	$(PY) .ci/write_tables.py

lock: $(STAMP) ## write serving/requirements.lock, the versions of the server image, from this .venv
	$(PY) .ci/write_lock.py

type: $(STAMP) ## mypy: every function is typed
	$(PY) -m mypy

arch: $(STAMP) ## layers, TensorFlow-free modules, size caps
	$(PY) -m pytest -q tests/test_architecture.py

doctest: $(STAMP) ## the examples in docstrings and documents (make test runs them too)
	$(PY) -m pytest -q tests/test_doctests.py

site: ## the documentation site, from the documents and the docstrings, in an environment of its own (.peers/site): build/site/index.html
	test -d .peers/site || python3 -m venv .peers/site
	.peers/site/bin/pip install -q -r .ci/requirements-site.lock
	.peers/site/bin/python .ci/write_site.py build/site

bench: $(STAMP) ## every benchmark on this machine and one table: results/benchmarks.md; needs `make demo` first, an hour
	$(PY) benchmarks/bench_training.py --flagfile=configs/demo.flags --materialise_gb=2 --bench_batches=1500 --output=results/bench_training.json
	$(PY) benchmarks/bench_plain_training.py --flagfile=configs/demo.flags --cut=validation --num_layers=2 --output=results/bench_plain_training.json
	$(PY) benchmarks/bench_request.py --run_dir=$(RUN_DIR) --output=results/bench_request.json
	$(PY) benchmarks/bench_growth.py --output=results/bench_growth.json
	$(PY) benchmarks/bench_index.py --bench_sizes=zipf:1000000:300 --bench_kinds=packed,auto,scann --output=results/bench_index.json
	$(PY) benchmarks/bench_exports.py --run_dir=$(RUN_DIR) --output=results/bench_exports.json
	$(PY) benchmarks/bench_serving.py --export_dir=$(EXPORT_DIR) --output=results/bench_serving.json
	@if [ -d .peers ]; then \
	    PYTHONPATH=.peers/deepmatch $(PY) benchmarks/bench_peers.py --flagfile=configs/demo.flags --cut=validation \
	        --torch_python=.peers/torch/bin/python --output=results/bench_peers.json; \
	else echo "bench_peers.py left out: make peers installs them first"; fi
	$(PY) benchmarks/write_table.py

peers: $(STAMP) ## other libraries, apart from .venv, in .peers/: those that `make bench` trains beside ours, and those of `make rivals`
	$(PY) -m pip install --target=.peers/deepmatch --no-deps deepmatch==0.3.2 'deepctr>=0.9.4a0,<0.10'
	$(PY) -m venv .peers/torch
	.peers/torch/bin/pip install torch==2.13.0 torch-rechub==0.9.0
	$(PY) -m venv .peers/lists
	.peers/lists/bin/pip install -r benchmarks/peers/requirements.lock
	$(PY) -m venv .peers/vae
	.peers/vae/bin/pip install -r benchmarks/peers/requirements_vae.lock

rivals: $(STAMP) ## tune each of RIVALS on the validation window of RIVAL_FLAGS (BUDGET settings each), and evaluate their lists; needs `make peers`, hours
	$(PY) benchmarks/peers/export_split.py --flagfile=$(RIVAL_FLAGS) --split=validation --split_dir=$(RIVAL_DIR)/split
	for rival in $(RIVALS); do \
	    case $$rival in *vae) python=.peers/vae/bin/python;; *) python=.peers/lists/bin/python;; esac; \
	    test -f $(RIVAL_DIR)/$$rival.json || $$python benchmarks/peers/run_peer.py $$rival \
	        --split_dir=$(RIVAL_DIR)/split --output=$(RIVAL_DIR)/$$rival.parquet --budget=$(BUDGET) || exit 1; done
	$(PY) -m longretriever_tf.evaluate_baselines --flagfile=$(RIVAL_FLAGS) --split=validation --output=$(RIVAL_DIR)/metrics.json \
	    $(foreach rival,$(RIVALS),--lists=$(rival):$(RIVAL_DIR)/$(rival).parquet)

test-beam: ## tests of `prepare --runner` on Beam's DirectRunner and DaskRunner, in an environment of their own, .peers/beam
	test -d .peers/beam || python3 -m venv .peers/beam
	.peers/beam/bin/pip install -q -e '.[beam]' 'apache-beam[dask]' pytest
	.peers/beam/bin/python -m pytest tests/test_prepare_on_beam.py

test-trackers: ## tests of `train --tracker` with Weights & Biases (offline) and MLflow, in an environment of their own, .peers/trackers
	test -d .peers/trackers || python3 -m venv .peers/trackers
	.peers/trackers/bin/pip install -q -e '.[wandb,mlflow]' pytest
	.peers/trackers/bin/python -m pytest tests/test_trackers.py

doctor: $(STAMP) ## versions, devices, missing packages: paste it into an issue
	$(PY) -m longretriever_tf.doctor

clean: ## remove .venv and caches; runs/ and exports/ stay
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
