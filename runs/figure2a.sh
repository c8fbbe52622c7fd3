#!/usr/bin/env bash
# Figure 2a: perplexity by evaluations of f, of solvers, learned solver, students and few-step networks.
# Reads results/wikitext2.json, which runs/table1_wikitext2.sh writes.
set -euo pipefail
cd "$(dirname "$0")/.."
make -s .venv/.installed
.venv/bin/cdeq compare results/wikitext2.json \
  --models student-best student-paper hyperdeq few-step --output results/figure2a.png
