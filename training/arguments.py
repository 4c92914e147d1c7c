"""The flags of `training.train`: transformers' own, plus ours with TRL's names where they mean the same.

Knows no models and no data.
"""

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments


@dataclass
class RewardTrainingArguments(TrainingArguments):
    """transformers' `TrainingArguments`, with defaults for reward models and the flags of this trainer.

    Where a default differs from transformers', it is what preference data wants: little of it, and noisy.
    """

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Base model: a directory or a hub name; any encoder or decoder."}
    )
    dataset_name: str | None = field(
        default=None, metadata={"help": "Preference pairs: .jsonl, .jsonl.gz, .parquet or a hub name."}
    )
    eval_dataset_name: str | None = field(
        default=None, metadata={"help": "Held-out pairs, for validation and calibration."}
    )
    eval_fraction: float = field(
        default=0.05,
        metadata={"help": "Share of the prompts held out when there is no eval_dataset_name; 0 for none."},
    )
    max_length: int | None = field(
        default=None,
        metadata={"help": "Tokens of prompt and response; default: what the model reads, 1024 at most."},
    )
    max_pairs: int | None = field(default=None, metadata={"help": "Use only the first so many pairs."})
    disable_dropout: bool = field(default=True, metadata={"help": "Train without dropout (Stiennon et al. 2020)."})

    learning_rate: float = field(default=5e-5, metadata={"help": "Peak learning rate of AdamW."})
    num_train_epochs: float = field(default=1.0, metadata={"help": "Passes over the pairs."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Pairs per step and device."})
    per_device_eval_batch_size: int = field(default=32, metadata={"help": "Pairs per evaluation batch."})
    lr_scheduler_type: str = field(default="linear", metadata={"help": "Schedule after the warm-up."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Warm-up steps; below 1, a share of all steps."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of matrices."})
    logging_steps: float = field(default=0.02, metadata={"help": "Log every so many steps; below 1, a share."})
    save_strategy: str = field(default="no", metadata={"help": "When to save the trainer's state: no, steps, epoch."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to validate: no, steps, epoch."})
    # transformers reads the type, and can only in this order.
    report_to: None | str | list[str] = field(default="none", metadata={"help": "Experiment tracker."})  # noqa: RUF036

    def __post_init__(self) -> None:
        """Checks what can be checked before a model is loaded.

        Raises:
            ValueError: a flag is missing or out of range.
        """
        for name in ("model_name_or_path", "dataset_name", "output_dir"):
            if not getattr(self, name):
                msg = f"--{name} is needed"
                raise ValueError(msg)
        if not 0 <= self.eval_fraction < 1:
            msg = f"--eval_fraction must be within [0, 1), not {self.eval_fraction}"
            raise ValueError(msg)
        if self.max_length is not None and self.max_length < 1:
            msg = f"--max_length must be positive, not {self.max_length}"
            raise ValueError(msg)
        if self.max_pairs is not None and self.max_pairs < 1:
            msg = f"--max_pairs must be positive, not {self.max_pairs}"
            raise ValueError(msg)
        if self.label_smoothing_factor:
            msg = "--label_smoothing_factor is for classification; soften the pairs' `label` column instead"
            raise ValueError(msg)
        if self.train_sampling_strategy != "random":
            msg = f"--train_sampling_strategy {self.train_sampling_strategy}: pairs are packed and drawn at random"
            raise ValueError(msg)
        self.remove_unused_columns = False
        # Where there is nothing but a CPU, transformers wants to be told so before it trains in bf16.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        self.dataloader_pin_memory = self.dataloader_pin_memory and not self.use_cpu
        super().__post_init__()  # type: ignore[no-untyped-call]
