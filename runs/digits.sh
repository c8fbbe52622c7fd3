#!/usr/bin/env bash
# The demo over three seeds: results/digits.json, the table and the pictures that README quotes.
#
# Expected (test, mean over seeds): converged teacher ≥ 0.95; one evaluation of the paper's student at
#   least 1.5 × the best truncated solver's accuracy.
# Cost: about 3 × 2-3 minutes. Hardware: two CPU cores.
set -euo pipefail
cd "$(dirname "$0")/.."
make -s .venv/.installed
for seed in 0 1 2; do
  .venv/bin/cdeq demo digits --seed "$seed" --folder "out/digits-$seed"
done
.venv/bin/cdeq report out/digits-0 out/digits-1 out/digits-2 --output results/digits
.venv/bin/python -m cdeq.report.quoting README.md
