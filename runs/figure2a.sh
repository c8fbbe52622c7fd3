#!/usr/bin/env bash
# Figure 2a: perplexity and relative residual by evaluations of f, of solvers, learned solver and students.
# Reads results/wikitext2.json, which runs/table1_wikitext2.sh writes.
set -euo pipefail
source "$(dirname "$0")/common.sh"
.venv/bin/cdeq compare results/wikitext2.json --beside relative_residual \
  --models student-best student-paper hyperdeq --output results/figure2a.png
