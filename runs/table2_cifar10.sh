#!/usr/bin/env bash
# Table 2 and Figure 2b on CIFAR-10: MDEQ and the single-stream DEQ, their solvers cut short, their
# students, the same f trained with few steps, and explicit networks.
# Writes results/cifar10*.json and .md, one a teacher, and both in "$results/table2-cifar10".*.
#
# usage: runs/table2_cifar10.sh [SEED …]
#
# Data: the folder CDEQ_DATA (or `data`) holds cifar-10-batches-py, the official Python batches. What is
#   reported is held out of the training images; the first TEST_FIRST of the test batch are reported besides
#   (1000 by default, for a copy of which the others are re-compressed; 10000 for the original).
# Checkpoints: what lies in checkpoints/ is taken from there; AFRESH=1 trains everything anew, which takes
#   hours on two cores; each stage goes on where it was stopped.
# RECIPES=mdeq_tiny RESULTS=out tries all of it out in a minute or two, without data.
set -euo pipefail
source "$(dirname "$0")/common.sh"
seeds=("${@:-0}") results=${RESULTS:-results}
read -ra recipes <<<"${RECIPES:-cifar10 cifar10_single_stream}"
parts=()
for recipe in "${recipes[@]}"; do
  folders=() keys=() label="" commands=(train distill baseline explicit evaluate)
  case $recipe in cifar10*) keys=(--source.test-first "${TEST_FIRST:-1000}") ;; esac
  # the paper's table has the single-stream DEQ alone
  case $recipe in *_single_stream) label=single-stream commands=(train evaluate) ;; esac
  for seed in "${seeds[@]}"; do
    folder=$(taken "$recipe-$seed")
    folders+=("$folder")
    for command in "${commands[@]}"; do
      .venv/bin/cdeq "$command" "$recipe" --seed "$seed" --folder "$folder" "${keys[@]}"
    done
  done
  .venv/bin/cdeq report "${folders[@]}" --output "$results/$recipe"
  parts+=("$label=$results/$recipe.json")
done
if [ ${#parts[@]} -gt 1 ]; then
  .venv/bin/cdeq combine "${parts[@]}" --output "$results/table2-cifar10"
fi
models=(student-paper student-best hyperdeq few-step)
.venv/bin/cdeq compare "$results/${recipes[0]}.json" --beside relative_residual --models "${models[@]}" \
  --output "$results/figure2b-${recipes[0]}.png"
.venv/bin/python -m cdeq.report.quoting README.md docs/results/*.md
