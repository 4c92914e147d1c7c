"""The flags of `training.train`: transformers' own, plus ours with TRL's names where they mean the same.

Knows no models and no data.
"""

import math
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast, get_args

import torch
from transformers import TrainingArguments
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from reward_model.precision import choose_precision
from reward_model.scores import Scalarisation
from training.lora import ALL_LINEAR, Lora
from training.objectives import LossType, Objective


@dataclass
class RewardTrainingArguments(TrainingArguments):
    """transformers' `TrainingArguments`, with defaults for reward models and the flags of this trainer.

    Where a default differs from transformers', it is what preference data wants: little of it, and noisy.
    """

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Base model: a directory or a hub name; any encoder or decoder."}
    )
    dataset_name: str | None = field(
        default=None, metadata={"help": "Preference pairs: .json, .jsonl, .jsonl.gz, .parquet or a hub name."}
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
    max_pairs: int | None = field(default=None, metadata={"help": "Use only the first so many pairs (or ratings)."})
    keep_duplicates: bool = field(default=False, metadata={"help": "Train on rows that repeat one before them, too."})
    keep_leaks: bool = field(
        default=False, metadata={"help": "Train on rows whose prompt is also in eval_dataset_name, too."}
    )
    label_noise_file: str | None = field(
        default=None,
        metadata={"help": "Where to write, with their texts, the pairs that the model confidently disagrees with."},
    )
    max_batch_tokens: int | None = field(
        default=None,
        metadata={"help": "Tokens computed at once, which bounds memory; default: 4096 on a CPU, else 16384."},
    )
    loss_type: str = field(
        default="bradley_terry",
        metadata={"help": "What is minimised.", "choices": list(get_args(LossType))},
    )
    label_smoothing: float = field(
        default=0.0, metadata={"help": "How often a label is taken to be wrong, from 0 to below 0.5."}
    )
    center_rewards_coefficient: float | None = field(
        default=None,
        metadata={"help": "Weight of (chosen + rejected)^2, which draws the rewards' mean to 0; say 0.01."},
    )
    attributes: list[str] | None = field(
        default=None, metadata={"help": "Columns with the ratings that --loss_type regression learns."}
    )
    attribute_weights: list[float] | None = field(
        default=None, metadata={"help": "What each attribute counts for in the reward; needed where there are several."}
    )
    disable_dropout: bool = field(default=True, metadata={"help": "Train without dropout (Stiennon et al. 2020)."})
    head_seed: int = field(
        default=0,
        metadata={"help": "Seed of the score head; the same for all runs that are to be averaged (training.average)."},
    )
    layer_decay: float = field(
        default=1.0, metadata={"help": "Each layer's learning rate as a share of that of the layer above it."}
    )
    head_learning_rate_factor: float = field(
        default=1.0, metadata={"help": "The score head's learning rate, as a multiple of --learning_rate."}
    )
    dtype: str = field(
        default="float32",
        metadata={
            "help": "Of the weights of the backbone; bfloat16 where they are not trained (--use_peft).",
            "choices": ["float32", "bfloat16"],
        },
    )
    use_peft: bool = field(default=False, metadata={"help": "Train LoRA adapters and the score head alone."})
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapters."})
    lora_alpha: int = field(default=32, metadata={"help": "Adapters count lora_alpha / lora_r times."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout of what goes into adapters."})
    lora_target_modules: list[str] = field(
        default_factory=lambda: [ALL_LINEAR],
        metadata={"help": f"Names of the layers that get an adapter; {ALL_LINEAR}: all linear layers of the backbone."},
    )

    bf16: bool | None = field(  # type: ignore[assignment]
        default=None,
        metadata={
            "help": "Compute in bf16; default: where the hardware multiplies it fast, unless accelerate was told what.",
            "nargs": "?",
            "const": True,
        },
    )
    learning_rate: float = field(default=5e-5, metadata={"help": "Peak learning rate of AdamW."})
    num_train_epochs: float = field(default=1.0, metadata={"help": "Passes over the pairs."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Pairs per step and device."})
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
        # Asked now, for transformers changes what was left to it. Not a field, so not a flag itself.
        self.given = frozenset(flag.name for flag in fields(self) if getattr(self, flag.name) != _default(flag))
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
        for name in ("max_pairs", "max_batch_tokens"):
            value = getattr(self, name)
            _check(value is None or value >= 1, f"--{name} must be positive, not {value}")
        _check(0 <= self.seed < _SEEDS, f"--seed must be within [0, 2**32), not {self.seed}")
        self._check_objective()
        self._check_lora()
        self._check_meaningless()
        self.remove_unused_columns = False
        # Where there is nothing but a CPU, transformers wants to be told so before it trains in bf16.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        if self.bf16 is None:
            self.bf16 = self._fast_bf16()
            self.given |= {"bf16"}  # what was computed in belongs to the record
        self.dataloader_pin_memory = self.dataloader_pin_memory and not self.use_cpu
        super().__post_init__()  # type: ignore[no-untyped-call]
        self._check_set_up()

    @property
    def scalarisation(self) -> Scalarisation:
        """What the head's labels are, and what each counts for."""
        if not self.attributes:
            return Scalarisation()
        return Scalarisation(tuple(self.attributes), tuple(self.attribute_weights or [1.0]))

    @property
    def objective(self) -> Objective:
        """What is minimised."""
        return Objective(cast("LossType", self.loss_type), self.label_smoothing, self.center_rewards_coefficient or 0.0)

    @property
    def lora(self) -> Lora | None:
        """The adapters that are trained in place of the backbone."""
        if not self.use_peft:
            return None
        return Lora(self.lora_r, self.lora_alpha, self.lora_dropout, tuple(self.lora_target_modules))

    def _fast_bf16(self) -> bool:
        """What --bf16 is where nobody has said what to compute in."""
        asked = self.fp16 or "ACCELERATE_MIXED_PRECISION" in os.environ
        return not asked and choose_precision("cpu" if self.use_cpu else "auto").dtype == torch.bfloat16

    def _check_objective(self) -> None:
        _check(self.loss_type in get_args(LossType), f"--loss_type must be one of {', '.join(get_args(LossType))}")
        _check(
            0 <= self.label_smoothing < 0.5, f"--label_smoothing must be within [0, 0.5), not {self.label_smoothing}"
        )
        coefficient = self.center_rewards_coefficient
        _check(
            coefficient is None or coefficient >= 0,
            f"--center_rewards_coefficient must be 0 or more, not {coefficient}",
        )
        _check(0 < self.layer_decay <= 1, f"--layer_decay must be within (0, 1], not {self.layer_decay}")
        factor = self.head_learning_rate_factor
        _check(factor > 0, f"--head_learning_rate_factor must be positive, not {factor}")
        regression = self.loss_type == "regression"
        _check(regression == bool(self.attributes), "--attributes and --loss_type regression need each other")
        _check(not (regression and self.label_smoothing), "--label_smoothing: ratings are no labels")
        _check(not (regression and coefficient), "--center_rewards_coefficient: ratings have a level of their own")
        noise = self.label_noise_file
        _check(not (regression and noise), "--label_noise_file: ratings are no labels")
        _check(not (noise and Path(noise).is_dir()), f"--label_noise_file {noise} is a directory: name a file")
        names, weights = self.attributes or [], self.attribute_weights
        _check(len(set(names)) == len(names), "--attributes must differ")
        _check(len(weights or names[:1]) == len(names), "--attribute_weights needs one number for each of --attributes")
        finite = all(map(math.isfinite, weights or [1.0])) and any(weights or [1.0])
        _check(finite, "--attribute_weights must be finite, and not all 0")

    def _check_lora(self) -> None:
        _check(self.dtype in {"float32", "bfloat16"}, f"--dtype must be float32 or bfloat16, not {self.dtype}")
        full = "--dtype bfloat16 is for --use_peft: trained weights stay in fp32 (--bf16 computes in bf16)"
        _check(self.use_peft or self.dtype == "float32", full)
        for flag in fields(self):
            if flag.name.startswith("lora_") and not self.use_peft:
                _check(flag.name not in self.given, f"--{flag.name} is for --use_peft")
        for name in ("lora_r", "lora_alpha"):
            _check(getattr(self, name) > 0, f"--{name} must be positive, not {getattr(self, name)}")
        _check(0 <= self.lora_dropout < 1, f"--lora_dropout must be within [0, 1), not {self.lora_dropout}")
        _check(bool(self.lora_target_modules), "--lora_target_modules needs a name")

    def _check_meaningless(self) -> None:
        """Flags of transformers that could not be honoured."""
        optimizer = f"--optim {self.optim}: such an optimizer has weights for training and others for judging"
        _check("schedule_free" not in str(self.optim), optimizer)
        batches = self.per_device_eval_batch_size
        _check(batches == _EVAL_BATCH_SIZE, "--per_device_eval_batch_size: batches are bounded by --max_batch_tokens")
        _check(not self.deepspeed, "--deepspeed: parameters are divided by --fsdp here")
        _check(
            not self.parallelism_config, "--parallelism_config: what is divided is examples and, by --fsdp, parameters"
        )
        _check(not self.save_only_model, "--save_only_model: no run could be resumed from it")
        _check(not self.torch_empty_cache_steps, "--torch_empty_cache_steps: memory is bounded by --max_batch_tokens")
        noise = "--neftune_noise_alpha: its noise depends on the length of a row, and rows are packed here"
        _check(self.neftune_noise_alpha is None, noise)
        smoothing = "--label_smoothing_factor is for classification; for preferences it is --label_smoothing"
        _check(not self.label_smoothing_factor, smoothing)
        sampling = f"--train_sampling_strategy {self.train_sampling_strategy}: pairs are packed and drawn at random"
        _check(self.train_sampling_strategy == "random", sampling)

    def _check_set_up(self) -> None:
        """What transformers has made of its flags."""
        config: Any = self.accelerator_config
        fixed = (config.split_batches, config.dispatch_batches, config.even_batches, config.use_seedable_sampler)
        given = "--accelerator_config: batches are divided among processes so that each example counts once an epoch"
        _check(fixed == (False, None, True, True), given)
        wanted = set(self.report_to or ())
        unknown = sorted(wanted - INTEGRATION_TO_CALLBACK.keys())
        _check(not unknown, f"--report_to {' '.join(unknown)} is not one of {', '.join(sorted(_TRACKERS))}")
        missing = sorted(wanted & _TRACKERS - set(get_available_reporting_integrations()))  # type: ignore[no-untyped-call]
        _check(not missing, f"--report_to {' '.join(missing)}: that is not installed")


#: What transformers can report to.
_TRACKERS = frozenset(INTEGRATION_TO_CALLBACK)
#: transformers' default.
_EVAL_BATCH_SIZE = 8
#: numpy takes seeds below this.
_SEEDS = 2**32


def _default(flag: Any) -> Any:
    return flag.default_factory() if callable(flag.default_factory) else flag.default


def _check(holds: bool, message: str) -> None:  # noqa: FBT001 - what holds comes first, as in an assertion
    if not holds:
        raise ValueError(message)
