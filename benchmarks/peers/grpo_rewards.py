"""One real step of TRL's `GRPOTrainer` with a checkpoint as `reward_funcs`: what it sampled and how it was rewarded.

    python grpo_rewards.py --checkpoint DIR --prompts PROMPTS.json --output REWARDS.json

The policy is a tiny model of random weights, whose tokenizer is the checkpoint's. Writes a list of
`{"messages": [...], "reward": x}`.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset  # type: ignore[import-untyped]
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import GRPOConfig, GRPOTrainer

#: Completions of a prompt; a step takes all of them.
GENERATIONS = 4


class Recording(GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer, which also keeps every reward."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.records: list[dict[str, Any]] = []

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, *rest: Any) -> Any:
        rewards = super()._calculate_rewards(inputs, prompts, completions, *rest)
        for prompt, completion, reward in zip(prompts, completions, rewards[:, 0].tolist(), strict=True):
            self.records.append({"messages": prompt + completion, "reward": reward})
        return rewards


def main() -> None:
    """Takes the step and writes the rewards."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--prompts", type=Path, required=True, help="a JSON list of lists of messages")
    parser.add_argument("--output", type=Path, required=True)
    flags = parser.parse_args()
    prompts = json.loads(flags.prompts.read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(flags.checkpoint)
    if tokenizer.eos_token is None:
        tokenizer.eos_token = tokenizer.sep_token
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    policy = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=512, **shape))
    with tempfile.TemporaryDirectory() as directory:
        config = GRPOConfig(
            output_dir=directory,
            use_cpu=True,
            bf16=False,
            report_to="none",
            max_steps=1,
            num_generations=GENERATIONS,
            per_device_train_batch_size=GENERATIONS * len(prompts),
            max_completion_length=24,
        )
        dataset = Dataset.from_dict({"prompt": prompts})
        trainer = Recording(
            model=policy,
            reward_funcs=flags.checkpoint,
            args=config,
            train_dataset=dataset,
            processing_class=tokenizer,
        )
        trainer.train()
    flags.output.write_text(json.dumps(trainer.records), encoding="utf-8")


if __name__ == "__main__":
    main()
