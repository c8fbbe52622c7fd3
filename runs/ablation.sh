#!/usr/bin/env bash
# What decides how well a student does: every variant, on two tasks, over three seeds.
# Writes results/ablation-digits.*, results/ablation-deblur.* and the picture results/ablation.png.
#
# Expected (test, median over seeds, digits): the on-policy students with own first steps are at the
#   converged teacher's accuracy from two evaluations on, and their error falls at every step; the
#   paper's student stops.
# Cost: more than an hour, most of it deblurring. Hardware: two CPU cores.
set -euo pipefail
source "$(dirname "$0")/common.sh"

both=(
  student-paper student-paper-no-aa student-best
  paper-no-task paper-reversed paper-from-0 paper-on-policy
  annealed annealed-mixed untied-1 untied-2 untied-4 untied-8
  untied-2-off-policy untied-2-no-readout untied-2-mixed
  untied-2-rank-2 untied-2-shared untied-2-initializer
)
declare -A variants=(  # a task whose answer is the state itself has no head to listen to
  [digits]="${both[*]} paper-on-policy-kl untied-2-no-kl untied-2-through untied-2-rank-8"
  [deblur]="${both[*]}"
)
for task in digits deblur; do
  folders=()
  for seed in 0 1 2; do
    folder="out/ablation-$task-$seed"
    folders+=("$folder")
    for command in train cache distill evaluate; do
      # shellcheck disable=SC2086
      .venv/bin/cdeq "$command" "$task" --seed "$seed" --folder "$folder" \
        --distil ${variants[$task]} --evaluation.splits validation test
    done
  done
  .venv/bin/cdeq report "${folders[@]}" --output "results/ablation-$task" --no-pictures
done
.venv/bin/cdeq compare results/ablation-digits.json results/ablation-deblur.json \
  --models student-paper paper-from-0 paper-on-policy-kl student-paper-then-solver annealed \
  untied-1 untied-2 untied-4 untied-2-off-policy untied-2-no-kl student-best \
  --output results/ablation.png
.venv/bin/python -m cdeq.report.quoting README.md docs/results/*.md
