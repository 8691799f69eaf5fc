# One virtual environment, made on first use; a changed pyproject.toml or constraints file installs again.
CONSTRAINTS ?= constraints-cpu.txt
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(basename $(notdir $(CONSTRAINTS)))
VIEWERS := .cache/viewers
# The first is the one that every run looks at; `make verify` looks at all.
OHIF := 3.13.2 3.12.10
OHIF_DEFAULT := $(firstword $(OHIF))
PLAYWRIGHT := 1.64.1
PLAYWRIGHT_STAMP := $(VIEWERS)/.playwright-$(PLAYWRIGHT)
WORKERS ?= 2

.PHONY: help install demo test lint verify bench train-chest-ct evaluate-chest-ct viewers viewers-all clean

help:
	@echo "make demo            the whole path on a generated chest CT: archive, node, result, pictures"
	@echo "make test            lint, types, import contracts, tests (skips what needs a server that is missing)"
	@echo "make lint            ruff, mypy, import-linter only"
	@echo "make viewers         fetch OHIF and playwright-core for the viewer tests; viewers-all: every version of OHIF"
	@echo "make verify          all tests, the long ones with real servers and viewers too"
	@echo "make bench           every benchmark, each against a peer or a floor in the same run"
	@echo "make evaluate-chest-ct  its figures and pictures again, beside a baseline; resumes; REAL=FOLDER judges real scans too"
	@echo "make train-chest-ct  train the chest starter again: 74 minutes on two cores with bfloat16 in hardware, hours without; a fuller setting where there is a GPU; REAL=FOLDER mixes real texture in"

# torch comes first and pinned: unpinned, another package's requirement may bring a CUDA build of several GB.
$(STAMP): pyproject.toml $(CONSTRAINTS) constraints-reference.txt
	@echo "installing into $(VENV): some minutes, about 2 GB with torch"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[brain-mr,test,postgresql]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r constraints-reference.txt
	touch $@

install: $(STAMP)

demo: $(STAMP)
	$(BIN)/overread demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

# The packed application holds its built files; nothing of it is run here.
$(VIEWERS)/ohif-%/.installed:
	rm -rf $(@D) && mkdir -p $(@D)
	cd $(@D) && npm pack --silent @ohif/app@$* && tar -xzf ohif-app-*.tgz --strip-components=1 package/dist && rm ohif-app-*.tgz
	touch $@

$(PLAYWRIGHT_STAMP):
	npm install --silent --no-save --no-package-lock --no-audit --no-fund --prefix $(VIEWERS) playwright-core@$(PLAYWRIGHT)
	touch $@

viewers: $(VIEWERS)/ohif-$(OHIF_DEFAULT)/.installed $(PLAYWRIGHT_STAMP)

viewers-all: $(OHIF:%=$(VIEWERS)/ohif-%/.installed) $(PLAYWRIGHT_STAMP)

verify: lint viewers-all
	$(BIN)/python -m pytest --verify -n $(WORKERS) --dist loadfile

bench: $(STAMP)
	@missed=""; for script in bench/*.py; do echo "== $$script"; $(BIN)/python $$script || missed="$$missed $$script"; done; \
		test -z "$$missed" || { echo "missed their goals:$$missed"; exit 1; }

# The first two keep large arrays' memory instead of asking for it anew each time; threads that wait sleep.
train-chest-ct: $(STAMP)
	MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 OMP_WAIT_POLICY=PASSIVE OPENBLAS_NUM_THREADS=1 \
		$(BIN)/python -m models.starter.chest_ct.train $(if $(REAL),--real $(REAL))

evaluate-chest-ct: $(STAMP)
	$(BIN)/python bench/chest_ct.py --processes $(WORKERS) $(if $(REAL),--real $(REAL))

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build *.egg-info
