#!/usr/bin/env bash
# Table 4: the paper's student by the weights of its losses, λ₁ (global) and λ₂ (task), at 20 evaluations.
# Writes results/table4-lambda.* over three seeds, a row for each pair of weights; committed is that of `0 1`.
#
# usage: runs/table4_lambda.sh [SEED …]
#
# Data: as runs/table1_wikitext2.sh. Cost: half an hour a seed on one core.
set -euo pipefail
source "$(dirname "$0")/common.sh"
seeds=("${@:-0}")
[ $# -gt 0 ] || seeds=(0 1 2)
recipe=${RECIPE:-wikitext2_small} parts=()
for seed in "${seeds[@]}"; do
  common=out/lambda-$seed/common
  .venv/bin/cdeq train "$recipe" --seed "$seed" --folder "$common"
  # so that what the teacher says of the training text is read once, not for each pair of weights
  .venv/bin/cdeq distill "$recipe" --seed "$seed" --folder "$common" --distil student-paper
  rm -rf "$common/student-paper"
done
for task in 0 0.05; do
  for anchor in 0 0.2 0.4 0.6 0.8 1; do
    folders=()
    for seed in "${seeds[@]}"; do
      folder=out/lambda-$seed/$anchor-$task
      folders+=("$folder")
      [ -d "$folder" ] || cp -rl "out/lambda-$seed/common" "$folder"
      for command in distill evaluate; do
        .venv/bin/cdeq "$command" "$recipe" --seed "$seed" --folder "$folder" --distil student-paper \
          --student.loss.anchor-weight "$anchor" --student.loss.task-weight "$task" \
          --evaluation.budgets 20 --evaluation.solvers --evaluation.only scores
      done
    done
    .venv/bin/cdeq report "${folders[@]}" --output "out/lambda-$anchor-$task" --no-pictures
    parts+=("λ₁ $anchor, λ₂ $task=out/lambda-$anchor-$task.json")
  done
done
.venv/bin/cdeq combine "${parts[@]}" --output results/table4-lambda
