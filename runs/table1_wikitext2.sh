#!/usr/bin/env bash
# Table 1 and Figure 2a on WikiText-2: the DEQ-Transformer, its solvers cut short, its students, the
# same f trained with few steps, and explicit language models.
# Writes results/wikitext2.* with perplexity, costs and memory by evaluations of f.
#
# usage: runs/table1_wikitext2.sh [SEED …]
#
# Data: the folder CDEQ_DATA (or `data`) holds wikitext-2/wiki.{train,valid,test}.tokens; DOWNLOAD=1 fetches
#   them where they are missing.
# Checkpoints: what lies in checkpoints/ is taken from there; AFRESH=1 trains everything anew.
# Cost, on one core that knows bfloat16, measured beside other work: 20 minutes of pre-training and 45 of the
#   teacher, 55 of students, 50 of few-step networks, two hours of explicit ones, 40 minutes of evaluation.
set -euo pipefail
source "$(dirname "$0")/common.sh"
seeds=("${@:-0}")
recipe=${RECIPE:-wikitext2} folders=()
for seed in "${seeds[@]}"; do
  folder=$(taken "$recipe-$seed")
  folders+=("$folder")
  for command in train distill baseline explicit evaluate; do
    .venv/bin/cdeq "$command" "$recipe" --seed "$seed" --folder "$folder" \
      ${DOWNLOAD:+--source.download}
  done
done
.venv/bin/cdeq report "${folders[@]}" --output "results/$recipe"
.venv/bin/python -m cdeq.report.quoting README.md docs/results/*.md
