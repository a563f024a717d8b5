# Every stage makes a real file, so nothing is done twice:
#   environment -> corpus -> tokenizer -> trained model -> scores
#
#   make eval                                      the default experiment, from nothing to BLEU
#   make eval CONFIG=configs/multi30k-de-en.toml   another one
#   make train ARGS="--model.dropout 0.2"          with a setting changed
#   make compare EXPERIMENT=configs/experiments/where.toml      variants against each other

CONFIG ?= configs/default.toml
RUN ?= runs/$(basename $(notdir $(CONFIG)))
ARGS ?=
EXPERIMENT ?= configs/experiments/quick.toml
DATA ?=
PYTHON ?= python3
TEXT ?= Ein Mann liest ein Buch.
export TEXT ARGS

VENV := .venv
PEERS := .venv-peers
SEQ2SEQ := $(VENV)/bin/seq2seq
# The configuration and its bases, and the bundled corpus, if one of them names it.
base_of = $(wildcard $(addprefix $(dir $1),$(shell sed -n 's/^base *= *"\(.*\)".*/\1/p' $1 2>/dev/null)))
BASES := $(call base_of,$(CONFIG))
CONFIGS := $(CONFIG) $(BASES) $(foreach base,$(BASES),$(call base_of,$(base)))
TANDEM := $(if $(shell grep -s data/tandem/corpus $(CONFIGS)),data/tandem/corpus/train.de)

.DEFAULT_GOAL := help
.PHONY: help setup data tokenizer train eval predict attend serve compare reports bench scale test quick check soak mutants clean FORCE

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18
	@echo "  CONFIG=$(CONFIG) picks the experiment, RUN=$(RUN) its folder,"
	@echo "  ARGS=\"--model.dropout 0.2\" changes settings of data, tokenizer, train, eval and compare"

setup: $(VENV)/ready ## make the virtual environment
data: $(RUN)/corpus/report.json ## read the corpus
tokenizer: $(RUN)/tokenizer.model ## learn the subwords
train: $(RUN)/training.json ## train the model
eval: $(RUN)/eval.json ## translate the test sets and score them
	@echo 'scores: $(RUN)/eval.json, translations: $(RUN)/hypotheses/'

predict: $(RUN)/training.json ## translate TEXT="..."
	@$(SEQ2SEQ) predict --run $(RUN) -- "$$TEXT"

attend: $(RUN)/training.json ## show the attention of TEXT="...", as a page
	@$(SEQ2SEQ) attend --run $(RUN) -o $(RUN)/attention.html -- "$$TEXT"

serve: $(RUN)/training.json ## try the model in the browser, as a page that answers
	@$(SEQ2SEQ) serve --run $(RUN)

compare: setup | data/tandem/corpus/train.de ## run the EXPERIMENT, report which variants are better
	$(SEQ2SEQ) compare $(EXPERIMENT) $(ARGS)

reports: setup ## write the reports in docs/experiments/ again, from their results.csv
	for folder in $(dir $(wildcard docs/experiments/*/results.csv)); do $(SEQ2SEQ) compare $$(basename $$folder) --run $$folder --report-only || exit 1; done

bench: setup $(PEERS)/ready ## speed, ours and others', on the corpus in DATA
	$(VENV)/bin/python benchmarks/bench.py --data "$(DATA)" --peers $(PEERS)/bin/python

scale: setup ## time and memory as work grows, on the corpus in DATA repeated
	$(VENV)/bin/python benchmarks/scale.py --data "$(DATA)"

test: setup ## run the tests
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder

quick: setup ## run the fast tests only
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n 2 -m "not slow"

check: test ## the tests, lint, format, imports and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/mypy

soak: setup ## kill training runs a hundred times, and send 10,000 fuzzed lines and requests
	KILLS=100 FUZZED=10000 $(VENV)/bin/pytest tests/test_kill.py tests/test_cli.py tests/test_serve.py -k "killed or fuzzed"

mutants: setup ## change the core in thousands of ways, and list what no fast test notices (hours)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check "mutmut>=3.8,<4"
	OMP_NUM_THREADS=1 $(VENV)/bin/mutmut run $(MUTANTS)
	$(VENV)/bin/mutmut results | grep -v 'not checked' || true

clean: ## remove everything made: environment, corpora, runs
	rm -rf $(VENV) $(PEERS) runs mutants data/tandem/corpus build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find seq2seq data tests -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(PEERS)/ready: benchmarks/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

data/tandem/corpus/train.de: $(wildcard data/tandem/*.py) data/tandem/lexicon.toml
	$(PYTHON) data/tandem/generate.py $(@D)
	@touch $@

# Settings given in ARGS that differ from the last ones given count as a change. Without ARGS,
# what was made with earlier ones stays made.
$(RUN)/args: FORCE
	@mkdir -p $(RUN)
	@printf '%s\n' "$$ARGS" | cmp -s - $@ || printf '%s\n' "$$ARGS" > $@

$(RUN)/corpus/report.json: $(CONFIGS) $(TANDEM) $(if $(strip $(ARGS)),$(RUN)/args) | $(VENV)/ready
	$(SEQ2SEQ) prepare corpus --config $(CONFIG) --run $(RUN) $(ARGS)
	@touch $@

$(RUN)/tokenizer.model: $(RUN)/corpus/report.json
	$(SEQ2SEQ) prepare tokenizer --config $(CONFIG) --run $(RUN) $(ARGS)
	@touch $@

# training.json is written when training ends; model.safetensors whenever validation finds a
# better one. A training that was stopped goes on when make is called again.
$(RUN)/training.json: $(RUN)/tokenizer.model
	$(SEQ2SEQ) train --config $(CONFIG) --run $(RUN) $(ARGS)
	@touch $@

$(RUN)/eval.json: $(RUN)/training.json
	$(SEQ2SEQ) evaluate --run $(RUN)
