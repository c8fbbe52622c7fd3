#!/usr/bin/env bash
# Table 1 and Figure 2a on WikiText-2: the DEQ-Transformer, its solvers cut short, its students, the
# same f trained with few steps, and explicit language models.
# Writes results/wikitext2.* with perplexity, costs and memory by evaluations of f.
#
# usage: runs/table1_wikitext2.sh [SEED …]
#
# Data: the folder CDEQ_DATA (or `data`) holds wikitext-2/wiki.{train,valid,test}.tokens.
# Checkpoints: what was trained for the committed table lies in checkpoints/ and is taken from there, so
#   that it is reproduced in minutes; AFRESH=1 trains everything anew, which takes hours on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
make -s .venv/.installed
seeds=("${@:-0}")
recipe=${RECIPE:-wikitext2} folders=()
for seed in "${seeds[@]}"; do
  folder=out/$recipe-$seed
  folders+=("$folder")
  if [ -z "${AFRESH:-}" ] && [ ! -d "$folder" ] && [ -d "checkpoints/$recipe-$seed" ]; then
    mkdir -p out && cp -r "checkpoints/$recipe-$seed" "$folder"
  fi
  for command in train distill baseline explicit evaluate; do
    .venv/bin/cdeq "$command" "$recipe" --seed "$seed" --folder "$folder"
  done
done
.venv/bin/cdeq report "${folders[@]}" --output "results/$recipe"
.venv/bin/python -m cdeq.report.quoting README.md
