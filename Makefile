# make demo | start | test | test-portable | lint | docs | data | clean. Each sets up what it needs in .venv the first time: it takes Python
# 3.11-3.13, but no compiler, git or sudo.
#   TEST_JOBS=4                  processes that run the tests (default: one a core, 4 at most)
#   PYTHON=/path/to/python3.12   the interpreter to make .venv with (default: the first one found that fits)

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
CONSTRAINTS := requirements/constraints.txt
DIGITS := datasets/digit_scenes
LINTED := projects tests docs/site setup.py $(wildcard datasets/*.py train_net.py)

.PHONY: help install demo start data test test-portable lint docs clean images-given always
.DELETE_ON_ERROR:

help:
	@echo "make demo   train the best recipe on digit scenes, with and without unlabelled images"
	@echo "make start IMAGES=folder  a config for your own images: finds labels, makes splits, says how to train"
	@echo "make test   the test suite"
	@echo "make test-portable  the tests that train, with the kernels of other processors and with two threads"
	@echo "make lint   black, isort, flake8, mypy, and the links of the documentation"
	@echo "make docs   the documentation as a site"
	@echo "make data   only draw the digit scenes, their class-imbalanced sub-tasks and the wild pool"
	@echo "make clean  remove data, outputs and caches (and .venv with ENV=1)"

demo: install $(DIGITS)/.complete
	$(PY) -m ssod.tools.demo

# ARGS: options of the command, such as --force.
start: images-given install
	@$(PY) -m ssod.tools.start "$(IMAGES)" $(ARGS)

images-given:
	@if [ ! -d "$(IMAGES)" ]; then echo "IMAGES=$(IMAGES) is no folder: make start IMAGES=folder" >&2; exit 1; fi

# One thread a process, and tests that share an expensive fixture in one process.
TEST_JOBS := auto
PYTEST = $(PY) -m pytest --numprocesses $(TEST_JOBS) --maxprocesses 4 --dist loadgroup

test: install
	OMP_NUM_THREADS=1 $(PYTEST)

# PyTorch and oneDNN choose their kernels by the processor. No verdict may depend on them. Threads that wait for more cores than there are
# must sleep (OMP_WAIT_POLICY).
test-portable: install
	OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(PYTEST) -m trains
	OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 $(PYTEST) -m trains

lint: install
	$(PY) -m black --check --quiet $(LINTED)
	$(PY) -m isort --check --quiet $(LINTED)
	$(PY) -m flake8 $(LINTED)
	$(PY) -m mypy
	$(MKDOCS)

# The documentation as a site in output/site. A broken link ends it.
MKDOCS = NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet

docs: install
	$(MKDOCS)
	@echo "Open output/site/index.html."

data: $(DIGITS)/.complete $(DIGITS)/.sub-tasks $(DIGITS)/.wild-pool

$(DIGITS)/.complete: datasets/digit_scenes.py datasets/digit_drawing.py | install
	$(PY) datasets/digit_scenes.py $(DIGITS)
	@touch $@

# For purification: half of the pool are distractors (configs/digit_scenes/pudet).
$(DIGITS)/.wild-pool: $(DIGITS)/.complete
	$(PY) datasets/digit_scenes.py $(DIGITS) --wild 2000
	@touch $@

# Digits 5 to 9 are the minority: common among the unlabelled scenes, or rare everywhere (configs/digit_scenes/ci_ssod).
$(DIGITS)/.sub-tasks: $(DIGITS)/.complete
	$(PY) datasets/digit_scenes.py $(DIGITS)/sub_task_common --imbalance 1
	$(PY) datasets/digit_scenes.py $(DIGITS)/sub_task_rare --imbalance 0.6
	$(PY) -m ssod.tools.make_splits --coco $(DIGITS)/sub_task_common/all.json --minority 5 6 7 8 9 \
		--percent 10 --min-boxes-per-class 10 --truth --force --prefix $(DIGITS)/sub_task_common/split
	$(PY) -m ssod.tools.make_splits --coco $(DIGITS)/sub_task_common/split_minority_10pct_10boxes_fold0_labeled.json \
		--min-boxes-per-class 10 --force --prefix $(DIGITS)/sub_task_common/split_minority_10pct_10boxes_fold0_balanced
	$(PY) -m ssod.tools.make_splits --coco $(DIGITS)/sub_task_rare/all.json --minority 5 6 7 8 9 --all-boxes \
		--percent 10 --min-boxes-per-class 1 --truth --force --prefix $(DIGITS)/sub_task_rare/split
	@touch $@

clean:
	rm -rf output build dist $(DIGITS) .mypy_cache .pytest_cache projects/ssod.egg-info $(if $(ENV),$(VENV))
	find projects tests datasets -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- The environment. One stamp a step, each touched when its step is complete, so that an interrupted set-up goes on where it stopped.

install: $(VENV)/.stamp-ssod

# PYTHON, or the first interpreter that fits.
FIND_PYTHON = for python in $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11); do \
	"$$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1 \
	&& echo "$$python" && break; done

# `.installing` is left behind where pip was stopped while it wrote packages; what it left may be half of one, so .venv is made anew.
# An environment that works is kept.
$(VENV)/.stamp-pip: $(CONSTRAINTS) $(if $(wildcard $(VENV)/.installing),always)
	@if [ -e $(VENV)/.installing ] || ! $(PY) -c 'import sys, pip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
		python="$$($(FIND_PYTHON))"; \
		if [ -z "$$python" ]; then \
			echo "$(if $(PYTHON),$(PYTHON) is not a,Found no) Python 3.11-3.13 with the venv module: install one, or name one with 'make PYTHON=/path/to/python3.12'." >&2; \
			exit 1; \
		fi; \
		echo "Making $(VENV) with $$python ..."; \
		"$$python" -m venv --clear $(VENV); \
	fi
	$(PIP) install --constraint $(CONSTRAINTS) pip setuptools wheel
	@touch $@

$(VENV)/.stamp-packages: $(VENV)/.stamp-pip requirements/make.txt
	@echo "Installing PyTorch and the other packages (some 5 GB with CUDA; minutes) ..."
	@touch $(VENV)/.installing
	$(PIP) install --no-build-isolation --constraint $(CONSTRAINTS) --requirement requirements/make.txt
	@rm $(VENV)/.installing
	@touch $@

# Detectron2's Python files alone, nothing is compiled; compat.py stands in for the compiled part.
$(VENV)/.stamp-detectron2: $(VENV)/.stamp-packages requirements/detectron2.txt requirements/lvis.txt
	$(PIP) install --require-hashes --no-deps --use-pep517 --no-build-isolation \
		--requirement requirements/detectron2.txt
	$(PIP) install --no-deps --no-build-isolation --constraint $(CONSTRAINTS) --requirement requirements/lvis.txt
	@touch $@

# Python reads the .pth file at its start, so that Detectron2 can be imported before ssod, or without it.
$(VENV)/.stamp-ssod: $(VENV)/.stamp-detectron2 setup.cfg pyproject.toml requirements/ssod_detectron2.pth
	$(PIP) install --no-build-isolation --no-deps --editable .
	cp requirements/ssod_detectron2.pth "$$($(PY) -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')"
	$(PY) -m ssod.tools.doctor --quiet
	@touch $@
