#!/usr/bin/env bash
# A large reward model on eight GPUs: Llama 3.1 8B Instruct, all weights, divided among the GPUs by FSDP2.
#
#     examples/llama_8b_fsdp2.sh                     # from the root of the repository
#     GPUS=4 examples/llama_8b_fsdp2.sh              # on four
#     examples/llama_8b_fsdp2.sh --max_length 2048   # flags go to training.train
#
# Needs  eight GPUs of 80 GB; 300 GB of host memory, as each process reads the base in fp32; 100 GB of disk. Weights,
#        gradients and optimizer take 16 GB of each GPU (8e9 parameters of 16 bytes in eight parts), what is computed
#        at once some 10 GB more (estimates).
# Takes  two hours at 1e15 FLOP/s, an eighth of the peak of eight H100s (an estimate: 77,000 pairs of about 1,400 tokens
#        are 7e18 FLOP, activation checkpointing included).
# Data   Skywork/Skywork-Reward-Preference-80K-v0.2: 77,016 pairs without the prompts that overlap RewardBench. Its card
#        states no licence; that of each source holds (HelpSteer2, OffsetBias, WildGuard, Magpie).
# Test   allenai/reward-bench (ODC-BY), its 2,985 filtered pairs, reported by subset. The leaderboard averages subsets
#        in its own way, so its figures are not the total shown here.
# Base   meta-llama/Llama-3.1-8B-Instruct (Llama 3.1 Community License): accept it on the hub and log in first
#        (`.venv/bin/hf auth login`).
#
# Learning rate and batch are a place to start from, not the result of a search. fsdp2.yaml says how weights are
# divided; LAYER is the class that is gathered as a whole (Qwen3DecoderLayer for Qwen3, and so on). Without GPUs,
# accelerate starts GPUS processes that each hold all weights: enough to try the recipe with a tiny MODEL.
#
# MODEL, DATASET, TEST, OUTPUT and PYTHON override what stands below; files of your own work as well as hub names.
set -euo pipefail

MODEL=${MODEL:-meta-llama/Llama-3.1-8B-Instruct}
LAYER=${LAYER:-LlamaDecoderLayer}
DATASET=${DATASET:-Skywork/Skywork-Reward-Preference-80K-v0.2}
TEST=${TEST:-allenai/reward-bench:filtered}
OUTPUT=${OUTPUT:-checkpoints/llama-8b}
GPUS=${GPUS:-8}
PYTHON=${PYTHON:-.venv/bin/python}

# About 128 pairs a step, however many GPUs share them.
"$PYTHON" -m accelerate.commands.launch --config_file "$(dirname "$0")/fsdp2.yaml" \
    --num_processes "$GPUS" --fsdp_transformer_layer_cls_to_wrap "$LAYER" \
    -m training.train \
    --model_name_or_path "$MODEL" --dataset_name "$DATASET" --output_dir "$OUTPUT" \
    --bf16 --max_length 4096 --max_batch_tokens 16384 \
    --per_device_train_batch_size $((128 / GPUS)) --learning_rate 5e-6 --lr_scheduler_type cosine --warmup_steps 0.03 \
    --center_rewards_coefficient 0.01 --eval_fraction 0.01 \
    "$@"

"$PYTHON" -m training.evaluate \
    --model_name_or_path "$OUTPUT" --dataset_name "$TEST" --output_file "$OUTPUT.metrics.json"

echo "to serve it: $PYTHON -m service --model $OUTPUT"
