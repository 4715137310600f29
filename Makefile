# make demo and make test need nothing done before: the first run makes .venv in the checkout.
PYTHON ?= python3
# torch comes first and by its plain name, so that nothing else decides which build of it is installed.
TORCH ?= torch==2.13.0
WORKERS ?= 2
# where make test-vllm puts its environment: vLLM brings its own versions of much that is in .venv
VLLM_VENV ?= .venv-vllm
BIN := .venv/bin
READY := .venv/.ready

# nothing below downloads models or data
export HF_HUB_OFFLINE ?= 1
export TRANSFORMERS_OFFLINE ?= 1
export HF_HUB_DISABLE_TELEMETRY ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-vllm lint format docs pages conformance bench bench-methods bench-foveal bench-image bench-video bench-cache bench-memory bench-gpu gallery goals clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*##/\1 #/p' $(MAKEFILE_LIST) | awk -F' # *' '{printf "make %-15s%s\n", $$1, $$2}'

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "foveate needs Python 3.11 or later; choose one with: make setup PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install "$(TORCH)"
	$(BIN)/python -m pip install -e ".[dev]"
	@touch $@

setup: $(READY)  ## make .venv with foveate and the tools on its path (demo and test do it when needed)

demo: $(READY)  ## draw a picture and a clip, ask about them, and draw what was kept, in demo_out/
	@mkdir -p demo_out
	$(BIN)/python examples/make_picture.py demo_out/picture.png
	$(BIN)/foveate ask demo_out/picture.png "what colour is the heart?" --model lab/image --plan "foveal(keep=0.1)" \
		--show demo_out/kept_picture.png
	$(BIN)/python examples/make_clip.py demo_out/clip.mp4
	$(BIN)/foveate ask demo_out/clip.mp4 "which way does the triangle move?" --model lab/video --plan "foveal(keep=0.1)" \
		--show demo_out/kept.png

# one torch thread for each worker, or two workers on two cores wait for each other
test: $(READY)  ## every test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

test-vllm:  ## the vLLM plug-in on a CPU, in an environment of its own (2.6 GB)
	PYTHON="$(PYTHON)" scripts/vllm_env.sh "$(VLLM_VENV)" "$(TORCH)"
	OMP_NUM_THREADS=1 $(VLLM_VENV)/bin/python -m pytest tests/test_vllm.py tests/test_vllm_arithmetic.py

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy scripts examples docs/hooks.py

format: $(READY)  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

pages: $(READY)  ## renew the generated tables of the README
	$(BIN)/python scripts/readme.py

ifeq ($(strip $(CASES)),)
conformance:
	@echo "make conformance needs the folder of cases: make conformance CASES=DIR" >&2; exit 2
else
conformance: $(READY)  ## run published vectors: make conformance CASES=DIR
	@test -d "$(CASES)" || { echo "make conformance: there is no folder $(CASES)" >&2; exit 2; }
	$(BIN)/python tests/conformance/run.py "$(CASES)"
endif

bench: $(READY)  ## measure speed and memory; writes results/
	$(BIN)/python -m foveate.bench all

bench-methods: $(READY)  ## time every method's decision alone, as a share of the prefill; writes results/
	OMP_NUM_THREADS=1 $(BIN)/python -m foveate.bench methods

gallery: $(READY)  ## draw what every method keeps of two pictures and of a clip; writes results/gallery_*.png
	$(BIN)/python scripts/gallery.py
	$(BIN)/python scripts/gallery_video.py

bench-foveal: $(READY)  ## what each idea of foveal brings; writes results/foveal.json
	OMP_NUM_THREADS=1 $(BIN)/python -m foveate.bench foveal

bench-image: $(READY)  ## accuracy of every image method on the lab's model, asked alike; writes results/, goes on if stopped
	OMP_NUM_THREADS=1 $(BIN)/python -m foveate.bench image

bench-video: $(READY)  ## the same for videos: every method on clips of 8, 32 and 128 frames
	OMP_NUM_THREADS=1 $(BIN)/python -m foveate.bench video

bench-memory: $(READY)  ## an hour of video in bounded memory and asked again; two hours of frames through a stream
	OMP_NUM_THREADS=1 $(BIN)/python -m foveate.bench memory
	OMP_NUM_THREADS=1 $(BIN)/python -m foveate.bench streaming

bench-cache: $(READY)  ## cache policies and stores: answers, English text, needles, speed, bytes; goes on if stopped
	OMP_NUM_THREADS=1 $(BIN)/python -m foveate.bench cache

bench-gpu: $(READY)  ## models of 7B and 8B on a CUDA GPU, 2k to 64k visual tokens, under 10 minutes; writes results/gpu.json
	$(BIN)/python -m foveate.bench gpu

goals: $(READY)  ## every figure that results/ names as a goal, with value and bar, those that fall short first
	@$(BIN)/python -m foveate.bench goals

clean:  ## remove what was built, .venv too
	rm -rf .venv site demo_out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests scripts examples docs -name __pycache__ -type d -prune -exec rm -rf {} +
