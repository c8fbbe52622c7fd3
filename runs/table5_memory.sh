#!/usr/bin/env bash
# Table 5: the most memory that an answer holds at once, by evaluations of f from 1 to 40, of solvers and
# students, beside Transformer-XL and QRNN. Writes results/table5-memory.*.
#
# usage: runs/table5_memory.sh
#
# Takes what runs/table1_wikitext2.sh has trained with seed 0. Cost: a minute.
set -euo pipefail
cd "$(dirname "$0")/.."
make -s .venv/.installed
recipe=${RECIPE:-wikitext2} folder=out/table5
rm -rf "$folder" && cp -r "out/$recipe-0" "$folder" && rm -rf "$folder/evaluation" "$folder/results.json"
.venv/bin/cdeq evaluate "$recipe" --seed 0 --folder "$folder" \
  --evaluation.budgets 1 --evaluation.cost-budgets 1 2 8 20 40
.venv/bin/cdeq report "$folder" --output results/table5-memory --no-pictures
