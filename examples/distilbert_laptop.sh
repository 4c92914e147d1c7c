#!/usr/bin/env bash
# A first reward model on a laptop: DistilBERT (66 M parameters) on 20,000 pairs about helpfulness.
#
#     examples/distilbert_laptop.sh                     # from the root of the repository
#     examples/distilbert_laptop.sh --max_pairs 2000    # flags go to training.train
#
# Needs  8 GB of memory and 1 GB of disk; no GPU, though one is used if there is one.
# Takes  two to three hours on eight cores, minutes on a GPU (an estimate: 20,000 pairs of about 400 tokens are
#        2e15 FLOP, and eight cores do about 0.25 TFLOP/s in fp32).
# Data   trl-lib/hh-rlhf-helpful-base: the helpful-base part of Anthropic/hh-rlhf (MIT) as messages, 43,800 pairs for
#        training and 2,350 for testing. People disagree about many of them: 60 to 65 % is what a model of this size
#        can be expected to agree with (an estimate), and more than 75 % would be suspicious.
# Base   distilbert/distilbert-base-uncased (Apache-2.0); reads 512 tokens. The pairs that do not fit are counted in the
#        log and in the checkpoint.
#
# MODEL, DATASET, TEST, OUTPUT and PYTHON override what stands below; files of your own work as well as hub names.
set -euo pipefail

MODEL=${MODEL:-distilbert/distilbert-base-uncased}
DATASET=${DATASET:-trl-lib/hh-rlhf-helpful-base}
TEST=${TEST:-trl-lib/hh-rlhf-helpful-base:test}
OUTPUT=${OUTPUT:-checkpoints/distilbert}
PYTHON=${PYTHON:-.venv/bin/python}

"$PYTHON" -m training.train \
    --model_name_or_path "$MODEL" --dataset_name "$DATASET" --output_dir "$OUTPUT" \
    --max_pairs 20000 --per_device_train_batch_size 32 --learning_rate 5e-5 --eval_fraction 0.05 \
    "$@"

"$PYTHON" -m training.evaluate \
    --model_name_or_path "$OUTPUT" --dataset_name "$TEST" --output_file "$OUTPUT.metrics.json"

echo "to serve it: $PYTHON -m service --model $OUTPUT"
