# Everything here works on a bare machine with Python 3.11 and a C compiler.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
# Most tests are too small for threads: workers of one thread each are faster.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile
# What `make gpu-check` and `make gpu-train` run on: with another Python than the environment's, nothing is installed.
PYTHON_GPU ?= $(BIN)/python
DEMO_CONFIG := configs/street_scenes/segcertify-s0.25-n100_unet-tiny_street-scenes-128x192.py
DEMO_DIR := work_dirs/demo

.PHONY: help venv venv-test venv-full demo test test-slow test-all test-full gpu-check gpu-train audit dist-check matrix docs lint format clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

venv: $(VENV)/.installed  ## build the environment (wheels only, mmcv-lite)

# setuptools < 82, and no build isolation: mmengine needs its pkg_resources. mmcv brings the OpenCV that
# needs a desktop's system libraries; the headless one, which shares its files, is put back in its
# place.
$(VENV)/.installed: requirements/lite.txt requirements/runtime.txt requirements/mmseg.txt setup.py
	@echo 'installing torch and OpenMMLab into $(VENV): about a minute, and a few hundred megabytes'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --only-binary=:all: 'setuptools>=64,<82' wheel \
		-r requirements/lite.txt -r requirements/runtime.txt -r requirements/mmseg.txt
	@$(BIN)/python -m pip uninstall --quiet --yes opencv-python
	@$(BIN)/python -m pip install --quiet --only-binary=:all: --no-deps --force-reinstall \
		opencv-python-headless
	@$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps -e .
	@touch $@

venv-test: $(VENV)/.installed-tests

# mmdetection3d's devkits and the corruptions bring the desktop's OpenCV back. The libraries that
# mmcert.integrations is tested with lie in a folder of their own, and so does mmpretrain: see
# requirements/frameworks.txt and requirements/mmpretrain_tests.txt.
$(VENV)/.installed-tests: $(VENV)/.installed requirements/tests.txt requirements/mmdet3d.txt \
		requirements/diffusion.txt requirements/onnx.txt requirements/corruptions.txt \
		requirements/frameworks.txt requirements/mmpretrain_tests.txt
	@echo 'installing what the tests need, mmdetection3d among it: about two minutes'
	@$(BIN)/python -m pip install --quiet --only-binary=:all: \
		-r requirements/tests.txt -r requirements/mmdet3d.txt -r requirements/diffusion.txt \
		-r requirements/onnx.txt -r requirements/corruptions.txt
	@$(BIN)/python -m pip uninstall --quiet --yes opencv-python opencv-python-headless
	@$(BIN)/python -m pip install --quiet --only-binary=:all: --no-deps \
		'opencv-python-headless<4.12'
	@rm -rf $(VENV)/frameworks $(VENV)/mmpretrain
	@$(BIN)/python -m pip install --quiet --only-binary=:all: --no-deps \
		--target $(VENV)/frameworks -r requirements/frameworks.txt
	@$(BIN)/python -m pip install --quiet --only-binary=:all: --no-deps \
		--target $(VENV)/mmpretrain -r requirements/mmpretrain_tests.txt
	@touch $@

venv-full: .venv-full/.installed  ## build .venv-full with mmcv's compiled operators (6 to 10 minutes)

.venv-full/.installed: requirements/runtime.txt requirements/mmseg.txt requirements/tests.txt setup.py
	@echo 'installing torch and what the tests need into .venv-full: about a minute'
	@$(PYTHON) -m venv .venv-full
	@.venv-full/bin/python -m pip install --quiet 'setuptools>=64,<82' wheel ninja
	@.venv-full/bin/python -m pip install --quiet --only-binary=:all: torch==2.13.0 psutil \
		'setuptools>=64,<82'
	@echo "compiling mmcv's operators: 6 to 10 minutes on 2 cores, once (MAX_JOBS=N for more cores)"
	@MMCV_WITH_OPS=1 MAX_JOBS=$${MAX_JOBS:-2} \
		.venv-full/bin/python -m pip install --quiet --no-build-isolation mmcv==2.1.0
	@.venv-full/bin/python -m pip install --quiet --only-binary=:all: \
		mmengine==0.10.7 mmsegmentation==1.2.2 -r requirements/runtime.txt \
		-r requirements/mmseg.txt -r requirements/tests.txt
	@.venv-full/bin/python -m pip uninstall --quiet --yes opencv-python
	@.venv-full/bin/python -m pip install --quiet --only-binary=:all: --no-deps --force-reinstall \
		opencv-python-headless
	@.venv-full/bin/python -m pip install --quiet --no-build-isolation --no-deps -e .
	@touch $@

demo: venv  ## train and certify the embedded example, and write a page to look at
	rm -rf $(DEMO_DIR)
	$(BIN)/python tools/train.py $(DEMO_CONFIG) --work-dir $(DEMO_DIR)
	$(BIN)/python tools/test.py $(DEMO_CONFIG) $(DEMO_DIR)/iter_400.pth --work-dir $(DEMO_DIR)
	$(BIN)/python tools/certify.py $(DEMO_DIR)/certified/votes-* --tau 0.6 0.75 0.85 \
		--procedure holm ordered_holm --out $(DEMO_DIR)/certified
	@cat docs/demo.txt
	$(BIN)/python tools/report.py $(DEMO_DIR)/certified

test: venv-test lint  ## lint, types and the quick tests
	$(PYTEST)

test-slow: venv-test  ## the slow tests alone
	$(PYTEST) -m slow

test-all: test test-slow  ## the slow tests as well

test-full: venv-full  ## the tests with mmcv's compiled operators, stock tools included
	.venv-full/bin/python -m pytest

gpu-check: $(if $(filter $(BIN)/python,$(PYTHON_GPU)),venv-test)  ## tests and timings on a GPU (8 minutes at most)
	$(PYTHON_GPU) benchmarks/gpu_check.py $(GPU_CHECK_ARGS)

gpu-train: $(if $(filter $(BIN)/python,$(PYTHON_GPU)),venv)  ## train and certify HRNet-W18 on CamVid on a GPU (10 minutes at most)
	$(PYTHON_GPU) benchmarks/gpu_train.py $(GPU_TRAIN_ARGS)

audit: venv  ## hold every procedure's error rate against alpha (some minutes)
	$(BIN)/python tools/audit.py --out work_dirs/audit.json

dist-check: venv  ## build wheel and sdist, and try each extra in an empty environment (half an hour)
	$(BIN)/python -u benchmarks/dist_check.py $(DIST_CHECK_ARGS)

matrix: venv  ## tests and a short demo with old and new versions of what mmcert runs on (an hour)
	$(BIN)/python -u benchmarks/matrix.py $(MATRIX_ARGS)

docs: $(VENV)/.installed-docs  ## build the documentation site into docs/_build/html
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -d docs/_build/doctrees \
		-b html docs docs/_build/html
	@echo 'open docs/_build/html/index.html'

$(VENV)/.installed-docs: $(VENV)/.installed-tests requirements/docs.txt
	$(BIN)/python -m pip install --quiet --only-binary=:all: -r requirements/docs.txt
	@touch $@

lint: venv-test  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: venv-test  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove environments and results
	rm -rf .venv .venv-full .venv-check build dist work_dirs data/street_scenes
