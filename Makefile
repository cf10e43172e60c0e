# Every command of the project, for people, for CI and for `sam build`. `make` lists them.
#
# A fresh machine needs Python 3.11 or newer, make and git; the rest is installed, by exact
# version and hash, into folders that `make clean` removes. Two variables choose the Python:
#
#   make test PYTHON=python3.13 VENV=.venv313

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# What goes into the Lambda zip, for which interpreter, and whose sagas.
SAGA_PYTHON ?= 3.13
SAGA_ARCH ?= x86_64
SAGA_PLATFORM ?= manylinux2014_$(if $(filter arm64,$(SAGA_ARCH)),aarch64,$(SAGA_ARCH))
SAGA_PACKAGES ?= examples
SAGA_REQUIREMENTS ?=
BUILD_PYTHON ?= $(firstword $(wildcard $(abspath $(BIN)/python)) $(PYTHON))

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

# Tool folders differ because their pins contradict each other (see pyproject.toml).
DEV := $(VENV)/.complete
DEPLOY := $(VENV)-deploy/.complete
SCAN := $(VENV)-scan/.complete
LOCK := $(VENV)-lock/.complete
MODEL := $(VENV)-model/.complete
AUDIT := $(VENV)-audit/.complete
E2E := $(VENV)-e2e/.complete
ENGINES := $(VENV)-engines/.complete
# dynalite is written for Node; a machine without it runs all but dynalite, and says so.
NODE := $(if $(filter engines,$(MAKECMDGOALS)),$(shell command -v npm >/dev/null && \
  node -e 'process.exit(process.versions.node.split(".")[0] < 20 ? 1 : 0)' && echo yes))
DYNALITE := $(if $(NODE),$(VENV)-dynalite/.complete)

# sam and checkov ask the network for newer versions of themselves and report their use; not here.
SAM := SAM_CLI_TELEMETRY=0 __SAM_CLI_APP_DIR="$(abspath $(VENV)-deploy/sam)" $(VENV)-deploy/bin/sam
CHECKOV := CKV_SKIP_PACKAGE_UPDATE_CHECK=true $(VENV)-scan/bin/checkov

.PHONY: help
help: ## list the commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# ---------------------------------------------------------------- run

.PHONY: demo dev test
demo: $(DEV) ## watch sagas succeed, compensate, crash and resume, on this machine (ARGS=--json)
	@$(BIN)/python -m saga_cli demo $(ARGS)

dev: $(DEV) ## the stack on this machine, data kept in .saga, code reloaded on save (ARGS='--port 4599')
	@$(BIN)/python -m saga_cli local --data .saga --reload $(ARGS)

test: $(DEV) ## all tests but those that need the build (ARGS='-k name' passes through)
	$(BIN)/python -m pytest --numprocesses=auto --cov --cov-report= --cov-fail-under=0 $(ARGS)

# ---------------------------------------------------------------- check, cheapest first

.PHONY: check check-rest static style imports types banned coverage stack template build scan artifact
check: static test coverage stack ## everything CI runs
check-rest: static coverage stack ## what is left of it after `make test`

static: style imports types banned

style: $(DEV)
	$(BIN)/ruff format --check
	$(BIN)/ruff check

imports: $(DEV)
	$(BIN)/lint-imports

types: $(DEV)
	$(BIN)/mypy

# Lock files and documents name no registry, no file names a folder of one machine, and a test
# double is a real little implementation. The brackets keep this file from finding itself.
banned:
	@! git grep --untracked -nIE '(py[p]i|python[h]osted|npm[j]s|deb[.]deb[i]an)[.](org|com)' -- . \
	  || { echo 'a package registry is named above'; exit 1; }
	@! git grep --untracked -nIE '(^|[[:space:]"=(:,])/([w]ork|[r]oot|[h]ome|[U]sers)/[[:alnum:]_.]' -- . \
	  || { echo 'a path of one machine is named above'; exit 1; }
	@! git grep --untracked -nE 'unittest([.]| import )[m]ock|[M]agicMock|[m]ocker[.]' -- '*.py' \
	  || { echo 'write a fake that implements the port (tests/fakes)'; exit 1; }

coverage: $(DEV)
	@test -f .coverage || { echo 'no coverage data: run `make test` first'; exit 1; }
	$(BIN)/coverage report
	$(BIN)/coverage report --include='saga_core/*' --fail-under=100

stack: template build scan artifact

template: $(DEV) $(DEPLOY) ## lint template.yaml
	$(BIN)/cfn-lint --append-rules cfn_lint_serverless.rules
	$(SAM) validate --lint --region us-east-1

build: $(DEV) $(DEPLOY) ## build the Lambda artifact into .aws-sam (SAGA_ARCH=arm64, SAGA_PACKAGES='mine')
	$(SAM) build --parameter-overrides Architecture=$(SAGA_ARCH)

scan: $(SCAN) ## security rules on template.yaml
	$(CHECKOV) --config-file .checkov.yaml

artifact: $(DEV) ## import every handler from the built artifact
	$(BIN)/python -m pytest -s tests/artifact

.PHONY: e2e
e2e: $(E2E) $(DEPLOY) ## deploy on an emulated AWS, run sagas from outside, write build/e2e/report.md
	__SAM_CLI_APP_DIR="$(abspath $(VENV)-deploy/sam)" $(VENV)-e2e/bin/python -m tests.e2e \
	  --sam $(VENV)-deploy/bin/sam $(ARGS)

MINUTES ?= 10
.PHONY: soak
soak: $(E2E) $(DEPLOY) ## the same stack in trouble for MINUTES, then every saga held against the world
	__SAM_CLI_APP_DIR="$(abspath $(VENV)-deploy/sam)" $(VENV)-e2e/bin/python -m tests.e2e.soak \
	  --sam $(VENV)-deploy/bin/sam --minutes $(MINUTES) $(ARGS)

.PHONY: engines
engines: $(DEV) $(E2E) $(ENGINES) $(DYNALITE) ## the contract suites on moto, ministack, dynalite and roto (ARGS='-k roto')
	@$(if $(NODE),,echo 'npm and Node 20 are not here: dynalite does not run')
	$(BIN)/python -m pytest tests/engines --engines-venv $(VENV)-engines --e2e-venv $(VENV)-e2e \
	  --dynalite $(VENV)-dynalite $(ARGS)

# ---------------------------------------------------------------- change

.PHONY: fix mutate simulate reach check-model lock sbom audit deploy clean
fix: $(DEV) ## format, and repair what can be repaired
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

mutate: $(DEV) ## mutation testing of saga_core; prints the survivors
	rm -rf mutants
	$(BIN)/mutmut run
	$(BIN)/mutmut results

SCHEDULES ?= 1000000
simulate: $(DEV) ## a million random schedules, and every state of small sagas (SCHEDULES=n)
	$(BIN)/python -m tests.schedules.long $(SCHEDULES)

reach: $(DEV) ## what of the turns and transitions the simulations reach by themselves
	COVERAGE_FILE=.coverage.reach $(BIN)/python -m pytest --numprocesses=auto tests/schedules \
	  --cov --cov-report= --cov-fail-under=0
	COVERAGE_FILE=.coverage.reach $(BIN)/coverage report --fail-under=95 \
	  --include=saga_core/turn.py,saga_core/transition.py

check-model: $(MODEL) ## the protocol's TLA+ model, and its rules broken on purpose (needs Java)
	$(VENV)-model/bin/python spec/check.py $(ARGS)

UV = $(VENV)-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
     --exclude-newer '1 week' --upgrade --no-emit-index-url --no-header
lock: $(LOCK) ## choose versions anew (none younger than a week) and write requirements/
	$(UV) pyproject.toml --extra cli --group dev -o requirements/dev.txt
	$(UV) pyproject.toml -c requirements/dev.txt -o requirements/runtime.txt
	for group in deploy scan audit e2e engines pip lock; do $(UV) --group pyproject.toml:$$group -o requirements/$$group.txt; done

sbom: $(AUDIT) ## write build/sbom.json: what is in the Lambda artifact (CycloneDX)
	@mkdir -p build
	$(VENV)-audit/bin/cyclonedx-py requirements requirements/runtime.txt --pyproject pyproject.toml \
	  --output-reproducible -o build/sbom.json

# Not part of check: it asks an advisory service over the network, and its answer changes from day to day.
audit: $(AUDIT) ## look the artifact's libraries up among known vulnerabilities
	$(VENV)-audit/bin/pip-audit --strict --disable-pip --require-hashes -r requirements/runtime.txt

deploy: build ## build, then `sam deploy --guided`, or with ARGS (credentials are yours to set)
	$(SAM) deploy $(or $(ARGS),--guided --parameter-overrides Architecture=$(SAGA_ARCH))

clean: ## remove everything that make made, but not the data of `make dev`
	rm -rf $(VENV) $(VENV)-deploy $(VENV)-scan $(VENV)-lock $(VENV)-audit $(VENV)-model $(VENV)-e2e $(VENV)-engines $(VENV)-dynalite build dist .aws-sam mutants htmlcov \
	  .coverage* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---------------------------------------------------------------- the Lambda artifact

# `sam build` calls build-<LogicalId> once per function, in this folder (samconfig.toml says
# build_in_source: otherwise sam first copies everything here, virtual environments included).
# The wheels are fetched once for all functions. pip evaluates environment markers for the
# Python it runs on, not for the target: tests/template checks that runtime.txt has none.
WHEELS = build/wheels-$(SAGA_PYTHON)-$(SAGA_PLATFORM)$(if $(SAGA_REQUIREMENTS),-$(notdir $(SAGA_REQUIREMENTS)))

# Without bytecode every cold start compiles the libraries again: 0.8 s of imports instead of 0.3 s.
# Only the target's own interpreter can make it; where there is none, the zip goes without.
COMPILER = $(shell for python in $(BUILD_PYTHON) python$(SAGA_PYTHON); do \
  $$python -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "$(SAGA_PYTHON)")' 2>/dev/null \
  && echo $$python && break; done)
# $(call compile,FOLDER): as it will lie in Lambda, so that a traceback names a file that is there.
compile = $(if $(COMPILER),$(COMPILER) -m compileall -q --invalidation-mode unchecked-hash -s $(1) -p /var/task $(1),:)

$(WHEELS)/.complete: requirements/runtime.txt $(SAGA_REQUIREMENTS)
	rm -rf $(WHEELS)
	$(BUILD_PYTHON) -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes \
	  --only-binary :all: --implementation cp --python-version $(SAGA_PYTHON) --platform $(SAGA_PLATFORM) \
	  --target $(WHEELS) $(foreach file,requirements/runtime.txt $(SAGA_REQUIREMENTS),-r $(file))
	rm -rf $(WHEELS)/bin
	@$(if $(COMPILER),,echo 'there is no Python $(SAGA_PYTHON) here: the zip goes without bytecode')
	$(call compile,$(WHEELS))
	touch $@

build-%: $(WHEELS)/.complete
	mkdir -p "$(ARTIFACTS_DIR)"
	cp -R saga_core infra handlers $(SAGA_PACKAGES) "$(ARTIFACTS_DIR)"
	find "$(ARTIFACTS_DIR)" -name __pycache__ -type d -prune -exec rm -rf {} +
	$(call compile,"$(ARTIFACTS_DIR)")
	cp -R $(WHEELS)/. "$(ARTIFACTS_DIR)"
	rm "$(ARTIFACTS_DIR)/.complete"

# ---------------------------------------------------------------- environments

# $(call environment,LOCK FILE): a fresh virtual environment in the target's folder.
# Compiling every module at once takes longer than all the tests: Python compiles what is used.
define environment
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --require-hashes -r requirements/pip.txt
	$(@D)/bin/python -m pip install --quiet --no-compile --only-binary :all: --require-hashes -r $(1)
endef

$(DEV): requirements/dev.txt requirements/pip.txt
	$(call environment,requirements/dev.txt)
	@touch $@

$(DEPLOY): requirements/deploy.txt requirements/pip.txt
	$(call environment,requirements/deploy.txt)
	@mkdir -p $(@D)/sam
	@echo '{"telemetryEnabled": false, "lastVersionCheck": 4102444800}' > $(@D)/sam/metadata.json
	@touch $@

$(SCAN): requirements/scan.txt requirements/pip.txt
	$(call environment,requirements/scan.txt)
	@touch $@

$(AUDIT): requirements/audit.txt requirements/pip.txt
	$(call environment,requirements/audit.txt)
	@touch $@

$(E2E): requirements/e2e.txt requirements/pip.txt
	$(call environment,requirements/e2e.txt)
	@touch $@

$(ENGINES): requirements/engines.txt requirements/pip.txt
	$(call environment,requirements/engines.txt)
	@touch $@

# Its lock file names no registry: npm asks the one that it is configured for, and what comes is
# held to the hashes. To choose versions anew, in tests/engines/dynalite:
#   npm install --package-lock-only --omit-lockfile-registry-resolved
$(VENV)-dynalite/.complete: tests/engines/dynalite/package.json tests/engines/dynalite/package-lock.json
	@mkdir -p $(@D)
	cp $^ $(@D)
	npm ci --prefix $(@D) --ignore-scripts --no-audit --no-fund
	@touch $@

$(LOCK): requirements/lock.txt requirements/pip.txt
	$(call environment,requirements/lock.txt)
	@touch $@

$(MODEL): requirements/model.txt requirements/pip.txt
	$(call environment,requirements/model.txt)
	@touch $@
