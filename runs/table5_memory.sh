#!/usr/bin/env bash
# Table 5: the most memory that an answer holds at once, by evaluations of f from 1 to 40, of solvers and
# students, beside Transformer-XL and QRNN. Writes results/table5-memory.*.
#
# usage: runs/table5_memory.sh
#
# Ten minutes on one core. Takes what runs/table1_wikitext2.sh has trained with seed 0, or checkpoints/ has of it.
set -euo pipefail
source "$(dirname "$0")/common.sh"
recipe=${RECIPE:-wikitext2} folder=out/table5
trained=$(taken "$recipe-0")
rm -rf "$folder" && mkdir -p "$folder"
for stage in "$trained"/*/; do
  case $(basename "$stage") in evaluation* | memory) ;; *) cp -r "$stage" "$folder" ;; esac
done
.venv/bin/cdeq evaluate "$recipe" --seed 0 --folder "$folder" --evaluation.only costs \
  --evaluation.cost-budgets 1 10 20 30 40 --evaluation.cost-rounds 3 --evaluation.batch-size 64
.venv/bin/cdeq report "$folder" --output results/table5-memory --no-pictures
