"""transformers' `Trainer`, taught to train on packed preference pairs.

Knows the loss and what to log; not where pairs come from, nor what happens to the model afterwards.
"""

import logging
import math
from collections.abc import Sequence
from functools import partial
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer
from transformers.trainer_utils import IntervalStrategy

from reward_model.calibration import agreement
from reward_model.model import RewardModel
from training.arguments import RewardTrainingArguments
from training.batches import PairDataset, RenderedPair, collate
from training.losses import bradley_terry
from training.scoring import score_pairs

logger = logging.getLogger(__name__)


class TrainingFailed(RuntimeError):
    """Training gave nothing that could be used; the message says how to go on."""


class RewardTrainer(Trainer):
    """Bradley-Terry training of a `RewardModel`.

    Args:
        model: the reward model; any device placement is the Trainer's.
        args: the flags.
        train: pairs to learn from.
        validation: held-out pairs, may be empty.
    """

    def __init__(
        self,
        model: RewardModel,
        args: RewardTrainingArguments,
        train: Sequence[RenderedPair],
        validation: Sequence[RenderedPair],
    ) -> None:
        if not validation:
            args.eval_strategy = IntervalStrategy.NO
        if args.n_gpu > 1:
            # DataParallel would cut the packed row in the middle of sequences.
            logger.warning("training on one of %d GPUs; torchrun --nproc_per_node=%d uses all", args.n_gpu, args.n_gpu)
            args._n_gpu = 1  # noqa: SLF001 - transformers has no flag for it
        super().__init__(
            model=model,
            args=args,
            train_dataset=PairDataset(train),
            eval_dataset=PairDataset(validation) if validation else None,
            data_collator=partial(collate, share_prefixes=model.backbone.shares_prefixes),
        )
        self.reward_model = model
        self._validation = validation
        self._recent: list[Tensor] = []

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: FBT001, FBT002 - the Trainer's signature
        num_items_in_batch: Tensor | int | None = None,  # noqa: ARG002
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Mean Bradley-Terry loss of a batch of pairs."""
        margin, label = inputs.pop("margin", None), inputs.pop("label", None)
        rewards: Tensor = model(**inputs)[:, 0]
        chosen, rejected = rewards.view(2, -1)
        loss = bradley_terry(chosen, rejected, margin, label)
        soft = torch.ones_like(chosen) if label is None else label.to(chosen.dtype)
        self._recent.append(torch.stack([chosen.detach(), rejected.detach(), soft]))
        return (loss, rewards) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds accuracy, margin and reward statistics since the last log to the Trainer's own."""
        if "loss" in logs and self._recent:
            chosen, rejected, labels = torch.cat(self._recent, dim=1).float().cpu().tolist()
            self._recent.clear()
            logs |= pair_metrics(chosen, rejected, labels)
            if not math.isfinite(logs["reward_mean"]):
                raise TrainingFailed(_DIVERGED.format(step=self.state.global_step))
        super().log(logs, start_time)

    def evaluate(
        self,
        eval_dataset: Any = None,  # noqa: ARG002 - the Trainer's signature
        ignore_keys: list[str] | None = None,  # noqa: ARG002
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Loss, accuracy, margin and reward statistics over the validation pairs, each pair counted once."""
        chosen, rejected = self.score(self._validation)
        measured = pair_metrics(chosen, rejected, [one.pair.label for one in self._validation], loss=True)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in measured.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def score(self, pairs: Sequence[RenderedPair]) -> tuple[list[float], list[float]]:
        """Raw rewards of the chosen and of the rejected responses, in order.

        A batch has as many tokens as `per_device_eval_batch_size` of the longest pairs.
        """
        longest = max(max(len(pair.chosen.token_ids), len(pair.rejected.token_ids)) for pair in pairs)
        rewards = score_pairs(self.reward_model.eval(), pairs, 2 * self.args.per_device_eval_batch_size * longest)
        return [chosen for chosen, _ in rewards], [rejected for _, rejected in rewards]


_DIVERGED = (
    "rewards are no longer finite after step {step}: training diverged. Lower --learning_rate, raise --warmup_steps,"
    " or train without --bf16 / --fp16"
)


def pair_metrics(
    chosen: Sequence[float], rejected: Sequence[float], labels: Sequence[float], *, loss: bool = False
) -> dict[str, float]:
    """Expected agreement with the labels (ties 0.5), mean margin, mean and standard deviation of all rewards.

    The Bradley-Terry loss too, if asked for.
    """
    better, worse = torch.tensor(chosen, dtype=torch.float64), torch.tensor(rejected, dtype=torch.float64)
    margins, rewards = better - worse, torch.cat([better, worse])
    metrics = {
        "accuracy": fmean(agreement(margin, p) for margin, p in zip(margins.tolist(), labels, strict=True)),
        "margin": margins.mean().item(),
        "reward_mean": rewards.mean().item(),
        "reward_std": rewards.std(correction=0).item(),
    }
    soft = torch.tensor(labels, dtype=torch.float64)
    return {"loss": bradley_terry(better, worse, label=soft).item(), **metrics} if loss else metrics
