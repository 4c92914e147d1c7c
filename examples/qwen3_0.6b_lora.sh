#!/usr/bin/env bash
# A small decoder with LoRA on one GPU: Qwen3-0.6B on UltraFeedback.
#
#     examples/qwen3_0.6b_lora.sh                            # from the root of the repository
#     examples/qwen3_0.6b_lora.sh --max_batch_tokens 4096    # flags go to training.train; this one halves the memory
#
# Needs  one GPU with bf16 and 24 GB (an estimate: 3 GB for the weights, and about 2 MB for each of the 8192 tokens that
#        are computed at once), 8 GB of disk.
# Takes  about an hour at 50 TFLOP/s (an estimate: 62,000 pairs of about 800 tokens, the prompt computed once, are
#        1e17 FLOP; half of the time goes elsewhere).
# Data   trl-lib/ultrafeedback_binarized: 62,100 pairs for training, 1,000 for testing, made of UltraFeedback (MIT).
#        The preferences are GPT-4's, not people's.
# Base   Qwen/Qwen3-0.6B (Apache-2.0), with its own chat template.
#
# The adapters end up in the weights, so that the checkpoint is served and averaged like any other. The learning rate
# is one for adapters; to train all weights instead, leave out --use_peft and the --lora flags and take a tenth of it.
#
# MODEL, DATASET, TEST, OUTPUT and PYTHON override what stands below; files of your own work as well as hub names.
set -euo pipefail

MODEL=${MODEL:-Qwen/Qwen3-0.6B}
DATASET=${DATASET:-trl-lib/ultrafeedback_binarized}
TEST=${TEST:-trl-lib/ultrafeedback_binarized:test}
OUTPUT=${OUTPUT:-checkpoints/qwen3-0.6b-lora}
PYTHON=${PYTHON:-.venv/bin/python}

"$PYTHON" -m training.train \
    --model_name_or_path "$MODEL" --dataset_name "$DATASET" --output_dir "$OUTPUT" \
    --use_peft --lora_r 16 --lora_alpha 32 \
    --lora_target_modules q_proj k_proj v_proj o_proj gate_proj up_proj down_proj \
    --bf16 --max_length 2048 --max_batch_tokens 8192 \
    --per_device_train_batch_size 32 --learning_rate 1e-4 --lr_scheduler_type cosine \
    --center_rewards_coefficient 0.01 --eval_fraction 0.02 \
    "$@"

"$PYTHON" -m training.evaluate \
    --model_name_or_path "$OUTPUT" --dataset_name "$TEST" --output_file "$OUTPUT.metrics.json"

echo "to serve it: $PYTHON -m service --model $OUTPUT"
