#!/usr/bin/env bash
# A reward model with several attributes: regression on HelpSteer2's ratings, the reward being their weighted sum.
#
#     examples/helpsteer2_attributes.sh                            # from the root of the repository
#     examples/helpsteer2_attributes.sh --num_train_epochs 1       # flags go to training.train
#
# Needs  one GPU with bf16 and 24 GB (an estimate: 10 GB for weights, gradients and optimizer, about 2 MB for each of
#        the 4096 tokens computed at once), 8 GB of disk.
# Takes  less than an hour at 50 TFLOP/s (an estimate: 20,000 responses of about 600 tokens, twice, are 7e16 FLOP).
# Data   nvidia/HelpSteer2 (CC-BY-4.0): 20,324 rated responses for training and 1,038 for validation, two to a prompt,
#        each attribute from 0 to 4. Prompts of several turns come as one string, which helpsteer2_turns.py takes apart.
# Test   allenai/reward-bench (ODC-BY): pairs, judged by the weighted sum.
# Base   Qwen/Qwen3-0.6B (Apache-2.0).
#
# What the attributes count for is a choice and can be made when the ratings are known; this one asks for help that is
# right and to the point, and charges for length. The service answers with the sum and, in `attributes`, with all five.
# Wang et al. 2024 (arXiv 2406.08673) train on the same ratings.
#
# MODEL, DATASET, VALIDATION, TEST, OUTPUT and PYTHON override what stands below; files work as well as hub names.
set -euo pipefail

MODEL=${MODEL:-Qwen/Qwen3-0.6B}
DATASET=${DATASET:-nvidia/HelpSteer2}
VALIDATION=${VALIDATION:-nvidia/HelpSteer2:validation}
TEST=${TEST:-allenai/reward-bench:filtered}
OUTPUT=${OUTPUT:-checkpoints/helpsteer2}
PYTHON=${PYTHON:-.venv/bin/python}

"$PYTHON" examples/helpsteer2_turns.py --dataset_name "$DATASET" --output_file "$OUTPUT.data/train.jsonl"
"$PYTHON" examples/helpsteer2_turns.py --dataset_name "$VALIDATION" --output_file "$OUTPUT.data/validation.jsonl"

"$PYTHON" -m training.train \
    --model_name_or_path "$MODEL" --output_dir "$OUTPUT" \
    --dataset_name "$OUTPUT.data/train.jsonl" --eval_dataset_name "$OUTPUT.data/validation.jsonl" \
    --loss_type regression \
    --attributes helpfulness correctness coherence complexity verbosity \
    --attribute_weights 1.0 1.0 0.5 0.5 -0.5 \
    --bf16 --max_length 2048 --max_batch_tokens 4096 \
    --per_device_train_batch_size 64 --learning_rate 1e-5 --lr_scheduler_type cosine --num_train_epochs 2 \
    "$@"

"$PYTHON" -m training.evaluate \
    --model_name_or_path "$OUTPUT" --dataset_name "$TEST" --output_file "$OUTPUT.metrics.json"

echo "to serve it: $PYTHON -m service --model $OUTPUT"
