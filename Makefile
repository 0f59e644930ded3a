# Everything runs from .venv, installed from the lock files.
PYTHON ?= python3
REPEAT ?= 1
BIN := .venv/bin

# Every process of the tests uses the compiled files of the first one
export PYTHONDONTWRITEBYTECODE :=

WORKERS ?= 6
PYTEST = $(BIN)/python -m pytest -n $(WORKERS)

# Together all tests but the slow proofs
SHORT := not prove and not chart and not long
LONG := long and not prove and not chart

# One contract run per broker and engine, and one daemon end to end; the rest of QUICK are rooms without I/O.
# Of the codecs, those without a registry. Tests that read all sources (tests/wire, private members) are left to `make test`.
QUICK_CONTRACTS := tests/brokers/local/test_contract.py tests/brokers/kafka/test_contract.py \
  tests/brokers/servicebus/test_contract.py tests/engines/test_embedded.py tests/engines/test_scheduler_contract.py tests/app/test_lineage_index.py
QUICK := $(QUICK_CONTRACTS) tests/cli/test_serve.py tests/codecs/test_*.py tests/config tests/core tests/lint \
  tests/early_messages/test_state_machine.py tests/quarantine/test_state_machine.py tests/waiting tests/routing tests/testing tests/workflow/test_inbox.py \
  $(filter-out tests/test_private_members.py,$(wildcard tests/test_*.py))

.PHONY: docs docs/demo.svg screenshots sbom audit-deps deploy-check manifests matrix demo test test-long quick costs coverage search newest prove prove-kafka prove-servicebus prove-engine prove-scheduler prove-workers prove-hostile prove-acceptance prove-dead-letters prove-reload prove-schemas prove-payloads prove-upgrade prove-interop prove-self-hosted check bench lock clean help

help: ## this text
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

.venv/runtime: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "durable-bridge needs Python 3.11 or newer; set PYTHON=...")'
	@echo "[1/3] Creating the virtual environment .venv"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "[2/3] Installing $$(grep -c == requirements.lock) libraries from requirements.lock: a minute or two"
	@$(BIN)/python demo/installing.py $$(grep -c == requirements.lock) \
	  $(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements.lock
	@echo "[3/3] Installing the bridge from this checkout"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv/dev: .venv/runtime requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

demo: .venv/runtime ## a shop on embedded parts: one order step by step, then a table of all messages; KEEP=1 leaves the shop open, with its page
	@echo "A shop with about 300 messages: orders, payments and parcels, some of which fail. It takes a minute."
	@$(BIN)/python -m demo $(if $(KEEP),--keep)

docs/demo.svg: .venv/runtime ## the picture in README.md, from a real run of the demo; renew it when the story changes
	$(BIN)/python -m demo --picture $@

screenshots: .venv/dev ## the pictures of the page in README.md and docs/page.md, from a real shop, with Chromium; look at each of them
	$(BIN)/python -m docs.site.screenshots

test: .venv/dev ## the tests but the long ones, in 5 minutes on 2 processors
	$(PYTEST) -m "$(SHORT)"

test-long: .venv/dev ## the long tests: processes that are killed, frozen or cut off, whole documents, load, hostile input; in 12 minutes
	$(PYTEST) -m "$(LONG)"

quick: WORKERS = 4
quick: .venv/dev ## the rooms without I/O, each contract once and one daemon, in a minute; Kafka is the small test server
	KAFKA_TEST_SERVER=1 $(PYTEST) -m "$(SHORT)" $(wildcard $(QUICK))

costs: .venv/dev ## all tests, with a measurement of each file in tests/kit/costs.json, by which `make test` and `make test-long` distribute them
	$(PYTEST) --costs

coverage: .venv/dev ## all tests with the share of lines and branches of bridge/ that they run; the floor is in pyproject.toml
	@mkdir -p .cache/coverage
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -n $(WORKERS) -m "not prove and not chart and not measured"
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --format=total

search: .venv/dev ## the property tests with examples not tried before; REPEAT=10 for ten runs
	for run in $$(seq $(REPEAT)); do HYPOTHESIS_PROFILE=search $(BIN)/python -m pytest -n $(WORKERS) -m "hypothesis and not prove and not chart" || exit 1; done

newest: .venv/dev ## all tests with the newest version of every dependency, in a throw-away environment; TESTS="tests/engines -x" for some
	$(BIN)/python -m tests.newest $(TESTS)

prove: .venv/dev ## the kills, which renew the table in docs/guarantees.md, and all slow proofs
	$(BIN)/python -m tests.prove
	$(BIN)/python -m tests.prove.dates run

prove-kafka: .venv/dev ## the slow proofs on a real Kafka broker
	$(BIN)/python -m tests.prove.dates run kafka

prove-scheduler: .venv/dev ## the engine contract and the lineage index on a real scheduler or its emulator: ENDPOINT=https://... [TASKHUB=default]; use an empty task hub
	@test -n "$(ENDPOINT)" || { echo "give ENDPOINT=https://NAME.REGION.durabletask.io, or http://127.0.0.1:8080 for the emulator"; exit 2; }
	BRIDGE_SCHEDULER_ENDPOINT="$(ENDPOINT)" BRIDGE_SCHEDULER_TASKHUB="$(or $(TASKHUB),default)" $(BIN)/python -m pytest -v tests/engines/test_scheduler_contract.py

prove-servicebus: .venv/dev ## the slow proofs on Service Bus, and its test server judged by other SDKs; SERVICEBUS_CONNECTION=... tries that namespace
ifdef SERVICEBUS_CONNECTION
	@$(BIN)/python -m tests.servicebus.namespace
else
	$(BIN)/python -m tests.prove.dates run servicebus
endif

prove-engine: .venv/dev ## the embedded engine with the SDKs of other languages; needs Node.js, Java with Maven, and Go; DURABLETASK_PYTHON=..., DURABLETASK_JS=... and DURABLETASK_JAVA=... add the suites of these checkouts
	$(BIN)/python -m tests.prove.dates run engine
ifdef DURABLETASK_PYTHON
	$(BIN)/python -m tests.engines.suites python "$(DURABLETASK_PYTHON)"
	$(BIN)/python -m tests.engines.suites python-loop "$(DURABLETASK_PYTHON)"
endif
ifdef DURABLETASK_JS
	$(BIN)/python -m tests.engines.suites javascript "$(DURABLETASK_JS)"
endif
ifdef DURABLETASK_JAVA
	$(BIN)/python -m tests.engines.suites java "$(DURABLETASK_JAVA)"
endif

prove-reload: .venv/dev ## reloads under load, with a broken file, without the engine, and with kills
	$(BIN)/python -m tests.prove.dates run reload

prove-self-hosted: .venv/dev ## the engine contract and an order saga on the server of durabletask-go; needs Go and PostgreSQL
	$(BIN)/python -m tests.prove.dates run self-hosted

prove-workers: .venv/dev ## a hundred kills of worker processes, supervised and joined, and deaths by their own code
	$(BIN)/python -m tests.prove.dates run workers

prove-hostile: .venv/dev ## an attack by five senders beside an honest one; BRIDGE_SOAK_SECONDS=120 for longer ones
	$(BIN)/python -m tests.prove.dates run hostile

prove-acceptance: .venv/dev ## long outages, and kills of sagas and quarantined keys at any moment
	$(BIN)/python -m tests.prove.dates run acceptance

prove-dead-letters: .venv/dev ## 10,000 dead letters on each broker, of which a cause is replayed while everything is killed
	$(BIN)/python -m tests.prove.dates run dead-letters

prove-schemas: .venv/dev ## a long fuzz of what a schema registry may answer
	$(BIN)/python -m tests.prove.dates run schemas

prove-payloads: .venv/dev ## sagas of 50 MB on both kinds of engine, and blob storage in an emulator; needs Node.js
	$(BIN)/python -m tests.prove.dates run payloads

prove-upgrade: .venv/dev ## a daemon of an older build beside one of today's; needs the history of the repository
	$(BIN)/python -m tests.prove.dates run upgrade

prove-interop: .venv/dev ## the samples in docs/samples that need other languages or packages: Java with Maven, Go, Node.js, FastAPI
	$(BIN)/python -m tests.prove.dates run interop

check: .venv/dev ## format, lint, types, layers, words, age of the proofs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.language
	$(BIN)/python -m tests.prove.dates

bench: .venv/dev ## all benchmarks, as JSON
	$(BIN)/python -m benchmarks all --json

.venv/site/installed: requirements-docs.lock
	$(PYTHON) -m venv .venv/site
	.venv/site/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-docs.lock
	@touch $@

docs: .venv/site/installed ## the documentation as a site with search, in build/docs; a broken link is an error
	.venv/site/bin/python -m sphinx -c docs/site -W --keep-going -n -q -d build/doctrees . build/docs
	@echo "open build/docs/index.html"

.venv/supply: .venv/dev requirements-supply.lock
	$(PYTHON) -m venv .venv/tools
	.venv/tools/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-supply.lock
	@touch $@

sbom: .venv/supply ## what the bridge is made of, as CycloneDX: dist/sbom.cdx.json
	@mkdir -p dist
	.venv/tools/bin/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml --output-reproducible --of JSON -o dist/sbom.cdx.json

matrix: .venv/dev .venv/supply ## the built package in clean environments, on each supported Python of this machine; PYTHONS="3.12" for some; DIST=dist keeps it
	$(BIN)/python -m tests.matrix $(PYTHONS) $(if $(DIST),--dist $(DIST))

deploy-check: .venv/dev .venv/supply ## unit for systemd, Helm chart, manifests, images and files for Azure, against the schemas of their platforms
	$(BIN)/python -m pytest -m "not prove" tests/deployment/test_systemd.py tests/deployment/test_chart.py tests/deployment/test_azure.py \
	  tests/deployment/test_image.py tests/deployment/test_rootfs.py

manifests: .venv/dev ## deploy/kubernetes/*.yaml from the chart
	$(BIN)/python -m tests.deployment.manifests

audit-deps: .venv/supply ## known vulnerabilities of the locked libraries; asks PyPI
	.venv/tools/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements.lock

lock: ## renew the lock files
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --upgrade --all-extras \
	  --group build pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --upgrade --all-extras \
	  --group dev -c requirements.lock pyproject.toml -o requirements-dev.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --upgrade \
	  --group pyproject.toml:supply -o requirements-supply.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --upgrade \
	  --group pyproject.toml:docs -o requirements-docs.lock

clean: ## remove what was built
	rm -rf .venv .bridge build .mypy_cache .ruff_cache .pytest_cache .hypothesis
