#!/usr/bin/env bash
# The demo over three seeds: results/digits.json, the table and the pictures that README quotes.
#
# Expected (test, median over seeds): what tests/test_claims.py says of the result.
# Cost: about 3 × 4 minutes. Hardware: two CPU cores.
set -euo pipefail
source "$(dirname "$0")/common.sh"
for seed in 0 1 2; do
  .venv/bin/cdeq demo digits --seed "$seed" --folder "out/digits-$seed" \
    --few-step-budgets 1 2 3 4 5 8 16 32
done
.venv/bin/cdeq report out/digits-0 out/digits-1 out/digits-2 --output results/digits
.venv/bin/python -m cdeq.report.quoting README.md docs/results/*.md
