#!/usr/bin/env bash
# Figure 3: the paper's student with and without Anderson's structure, and the best one, on WikiText-2.
# Reads results/wikitext2.json, which runs/table1_wikitext2.sh writes.
set -euo pipefail
source "$(dirname "$0")/common.sh"
.venv/bin/cdeq compare results/wikitext2.json \
  --models student-paper student-paper-no-aa student-best --output results/figure3-aa.png
