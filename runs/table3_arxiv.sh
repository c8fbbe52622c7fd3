#!/usr/bin/env bash
# Table 3 and Figures 2c, 2d on ogbn-arxiv whole: see runs/graphs.sh, which does it for any graph.
#
# Expected (test, median over three seeds, GPT-prediction features, well-posed IGNN): teacher .740;
#   student-best within .2 points of it from one evaluation on, Anderson 2.5 points below at one.
exec "$(dirname "$0")/graphs.sh" arxiv "$@"
