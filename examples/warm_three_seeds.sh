#!/usr/bin/env bash
# Three reward models whose weights are averaged into one (WARM, Rame et al. 2024, arXiv 2401.12187).
#
#     examples/warm_three_seeds.sh                     # from the root of the repository
#     examples/warm_three_seeds.sh --max_pairs 2000    # flags go to training.train, for all three
#
# Needs  what distilbert_laptop.sh needs, three times the time and 1 GB more of disk. MODEL makes it something larger.
# Data   trl-lib/hh-rlhf-helpful-base: the helpful-base part of Anthropic/hh-rlhf (MIT). Half of its test pairs tell the
#        models apart and calibrate, the other half is for the final figure.
# Base   distilbert/distilbert-base-uncased (Apache-2.0).
#
# All three begin with the same base and, by --head_seed, the same head; averaging refuses anything else. They differ in
# the order of the data and in the learning rate: the less alike members are, the more their average gains. It costs no
# more to serve than one of them. The log shows each of them, their ensemble and the average on the same pairs.
#
# MODEL, DATASET, VALIDATION, TEST, OUTPUT and PYTHON override what stands below; files work as well as hub names.
set -euo pipefail

MODEL=${MODEL:-distilbert/distilbert-base-uncased}
DATASET=${DATASET:-trl-lib/hh-rlhf-helpful-base}
VALIDATION=${VALIDATION:-trl-lib/hh-rlhf-helpful-base:test[:50%]}
TEST=${TEST:-trl-lib/hh-rlhf-helpful-base:test[50%:]}
OUTPUT=${OUTPUT:-checkpoints/warm}
PYTHON=${PYTHON:-.venv/bin/python}

rates=(2e-5 3e-5 5e-5)
members=()
for seed in 1 2 3; do
    members+=("$OUTPUT.seed-$seed")
    "$PYTHON" -m training.train \
        --model_name_or_path "$MODEL" --dataset_name "$DATASET" --output_dir "$OUTPUT.seed-$seed" \
        --eval_dataset_name "$VALIDATION" --seed "$seed" --head_seed 0 --learning_rate "${rates[seed - 1]}" \
        --max_pairs 20000 --per_device_train_batch_size 32 \
        "$@"
done

"$PYTHON" -m training.average \
    --model_name_or_path "${members[@]}" --dataset_name "$VALIDATION" --output_dir "$OUTPUT"

"$PYTHON" -m training.evaluate \
    --model_name_or_path "$OUTPUT" --dataset_name "$TEST" --output_file "$OUTPUT.metrics.json"

echo "to serve it: $PYTHON -m service --model $OUTPUT"
