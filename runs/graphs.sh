#!/usr/bin/env bash
# One graph as in Table 3 and Figures 2c, 2d: every teacher, its solvers cut short, its students, the
# same f trained with few steps, and explicit networks, over three seeds.
# Writes results/GRAPH*.json and .md, one a teacher, and all of them in results/table3-GRAPH.*.
#
# usage: runs/graphs.sh GRAPH [SEED …]          GRAPH: arxiv, computers, physics
#
# Data: the folder CDEQ_DATA (or `data`) holds ogbn_arxiv/, amazon/ and coauthor/ in the layouts of
#   OGB and PyTorch Geometric; DOWNLOAD=1 fetches what is missing, for arxiv with OGB's official features,
#   which are not those of the committed tables (docs/graphs.md).
# Checkpoints: what was trained for the committed tables lies in checkpoints/ and is taken from there, so
#   that a table is reproduced in minutes; AFRESH=1 trains everything anew.
# Cost of training afresh: hours for arxiv on two cores; each stage goes on where it was stopped.
set -euo pipefail
source "$(dirname "$0")/common.sh"
graph=$1
shift
seeds=("${@:-0}")
[ $# -gt 0 ] || seeds=(0 1 2)

parts=()
for teacher in "" _unconstrained _eignn _mignn; do
  recipe=$graph$teacher folders=()
  for seed in "${seeds[@]}"; do
    folder=$(taken "$recipe-$seed")
    folders+=("$folder")
    commands=(train)
    case $teacher in
      "") commands+=(cache distill baseline explicit) ;;
      _unconstrained) commands+=(cache distill baseline) ;;
    esac
    for command in "${commands[@]}" evaluate; do
      .venv/bin/cdeq "$command" "$recipe" --seed "$seed" --folder "$folder" \
        ${DOWNLOAD:+--source.download}
    done
  done
  .venv/bin/cdeq report "${folders[@]}" --output "results/$recipe"
  parts+=("${teacher#_}=results/$recipe.json")
done
.venv/bin/cdeq combine "${parts[@]}" --output "results/table3-$graph"
.venv/bin/cdeq compare "results/table3-$graph.json" --output "results/table3-$graph.png" --models \
  student-best "unconstrained anderson" "unconstrained ignn-solver" "unconstrained student-paper" \
  "unconstrained student-best" "eignn anderson" "mignn anderson"
.venv/bin/python -m cdeq.report.quoting README.md docs/results/*.md
