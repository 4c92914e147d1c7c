"""transformers' `Trainer`, taught to train on packed examples.

Knows steps, objectives and what to log; not where examples come from, nor what happens to the model afterwards.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, IntervalStrategy

from reward_model.model import BATCH_TOKENS, CPU_BATCH_TOKENS, RewardModel
from training import resume
from training.arguments import RewardTrainingArguments
from training.batches import Pack, Step, collate
from training.examples import Example, SequencesOf
from training.first_sight import FirstSight, Judged, joined
from training.objectives import Objective, UnfitData
from training.optimizers import spread_rates
from training.order import Epochs, Shuffled
from training.outcomes import Outcomes
from training.processes import gathered
from training.scoring import score_groups
from training.sharding import divide

logger = logging.getLogger(__name__)


class TrainingFailed(RuntimeError):
    """Training gave nothing that could be used; the message says how to go on."""


class RewardTrainer(Trainer):
    """Training of a `RewardModel`.

    Args:
        model: the reward model; any device placement is the Trainer's.
        args: the flags.
        objective: what is minimised.
        train: what to learn from.
        validation: held out, may be empty.
        run: what the checkpoints of this run are told by; see `training.resume.describe_run`.
    """

    args: RewardTrainingArguments

    def __init__(
        self,
        model: RewardModel,
        args: RewardTrainingArguments,
        objective: Objective,
        train: Sequence[Example],
        validation: Sequence[Example],
        run: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        if args.metric_for_best_model is not None:
            _check_metric(args.metric_for_best_model.removeprefix("eval_"), validation, model.scalarisation.weights)
        if not validation:
            args.eval_strategy = IntervalStrategy.NO
        if args.n_gpu > 1:
            # DataParallel would cut the packed row in the middle of sequences.
            logger.warning("training on one of %d GPUs; torchrun --nproc_per_node=%d uses all", args.n_gpu, args.n_gpu)
            args._n_gpu = 1  # noqa: SLF001 - transformers has no flag for it
        self._rates = args.layer_decay, args.head_learning_rate_factor
        on_cpu = args.device.type == "cpu"  # where the model will be, not where it is now
        self._budget = args.max_batch_tokens or (CPU_BATCH_TOKENS if on_cpu else BATCH_TOKENS)
        self.reward_model = model
        super().__init__(
            model=model,
            args=args,
            train_dataset=Examples(train),
            eval_dataset=Examples(validation) if validation else None,
            data_collator=partial(
                collate, max_batch_tokens=self._budget, share_prefixes=model.backbone.shares_prefixes
            ),
        )
        self._objective = objective
        self._train, self._validation = train, validation
        self._recent = Outcomes()
        self._first_sight = FirstSight() if args.label_noise_file else None
        self._run = run

    def create_accelerator_and_postprocess(self) -> None:
        """The accelerator of the flags."""
        super().create_accelerator_and_postprocess()
        self.is_fsdp_enabled = divide(self.accelerator, self.reward_model, self.args.fsdp_plugin_args)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The examples of this process."""
        args = self.args
        order = Shuffled(
            len(self._train),
            self._train_batch_size,
            seed=args.seed if args.data_seed is None else args.data_seed,
            process=args.process_index,
            processes=args.world_size,
            drop_last=args.dataloader_drop_last,
        )
        return Epochs(
            Examples(self._train),
            batch_sampler=order,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            in_order=args.dataloader_in_order,
        )

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer of the flags, with learning rates by depth where they ask for it."""
        new = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if new and self._rates != (1, 1):
            spread_rates(optimizer, self.reward_model.model, layer_decay=self._rates[0], head_factor=self._rates[1])
        return optimizer

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """The next batches, and what they count on all devices (`Step.count`): the step's loss is the mean over it."""
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        count = torch.tensor(sum(sample["step"].count for sample in samples), device=device)
        return samples, self.accelerator.reduce(count) if self.args.world_size > 1 else count

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Adds the gradients of one batch, pack by pack; returns its part of the step's mean loss."""
        assert num_items_in_batch is not None
        model.train()
        # Gradients are averaged over the devices, so each one's sum counts that many times.
        scale = self.args.world_size / float(num_items_in_batch)
        total = torch.zeros((), device=self.args.device)
        lines = inputs["step"].lines
        packs = self._packs(inputs["step"])
        for i, pack in enumerate(packs):
            with self._collecting(model, last=i == len(packs) - 1):
                loss = self._loss(model, pack, lines) * (0.0 if pack is self._spare else scale)
                self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def _packs(self, step: Step) -> list[Pack]:
        """The step's packs, and as many spare ones as keep this process in step with the others.

        Gradients are exchanged by all, also where there is nothing left for one to learn from. Where parameters are
        divided among devices, each forward pass is a conversation too.
        """
        packs = list(step.packs)
        most = max(gathered(len(packs))) if self.is_fsdp_enabled else 1
        return packs + [self._spare] * (most - len(packs))

    @cached_property
    def _spare(self) -> Pack:
        """A pack that counts for nothing."""
        first: list[Any] = [self._train[0]]
        step: Step = self.data_collator(first)["step"]
        return step.packs[0]

    def _collecting(self, model: torch.nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        """Devices exchange gradients after the last pack only, unless there is no room for them as a whole."""
        if last or not self.accelerator.sync_gradients or self.is_fsdp_enabled:
            return nullcontext()
        context: AbstractContextManager[Any] = self.accelerator.no_sync(model)
        return context

    def _loss(self, model: torch.nn.Module, pack: Pack, lines: Sequence[int]) -> Tensor:
        with self.compute_loss_context_manager():
            values: Tensor = model(pack.batch)
        rewards = values @ values.new_tensor(self.reward_model.scalarisation.weights)
        if pack is not self._spare:
            self._note(rewards.detach(), pack, lines)
        return self._objective(values, rewards, pack)

    def _note(self, rewards: Tensor, pack: Pack, lines: Sequence[int]) -> None:
        if self.args.logging_strategy != IntervalStrategy.NO:
            self._recent.add(rewards, pack)
        epoch = self.state.epoch or 0.0
        if self._first_sight is not None and epoch < 1:
            self._first_sight.add(rewards, pack, lines, epoch)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds accuracy, margin and reward statistics since the last log to the Trainer's own."""
        if "loss" in logs:
            logs |= Outcomes.together(gathered(self._recent.take())).metrics()
            if not math.isfinite(logs.get("reward_mean", 0.0)):
                raise TrainingFailed(_DIVERGED.format(step=self.state.global_step))
        super().log(logs, start_time)

    def evaluate(
        self,
        eval_dataset: Any = None,  # noqa: ARG002 - the Trainer's signature
        ignore_keys: list[str] | None = None,  # noqa: ARG002
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Loss, accuracy, margin and reward statistics over the validation set, each comparison counted once."""
        measured = self.outcomes(self._validation).metrics(loss=True)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in measured.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Saves the state of the run; it counts once all of it is there, and older ones are only removed then."""
        directory = Path(str(self.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.is_world_process_zero():
            resume.begin(directory)
        self.accelerator.wait_for_everyone()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            resume.complete(directory, self._run)
            resume.rotate(directory, limit, [self.state.best_model_checkpoint])

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Saves the weights that are trained, each under one name: the others are those of the base model."""
        whole = self.reward_model.state_dict() if state_dict is None else state_dict
        others = dict(self.reward_model.named_parameters(remove_duplicate=False)).keys() - self._trained
        super()._save(output_dir, {name: tensor for name, tensor in whole.items() if name not in others})

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Raises ResumeRefused where a checkpoint lacks weights, or has others."""
        wrong = sorted(self._trained.intersection(load_result.missing_keys)) + load_result.unexpected_keys
        if wrong:
            msg = f"the checkpoint's weights are not those of this model: {', '.join(wrong[:4])}"
            raise resume.ResumeRefused(msg)

    @property
    def _trained(self) -> set[str]:
        return {name for name, parameter in self.reward_model.named_parameters() if parameter.requires_grad}

    def outcomes(self, examples: Sequence[Example]) -> Outcomes:
        """The rewards of all comparisons of `examples`, in order, by the model as it is now."""
        model, part = self.reward_model.eval(), (self.args.process_index, self.args.world_size)
        parts = gathered(score_groups(model, SequencesOf(examples), self._budget, part=part))
        rewards = [next(filter(None, one)) for one in zip(*parts, strict=True)]
        return Outcomes.of(examples, rewards, self.reward_model.scalarisation.weights)

    def first_sight(self) -> tuple[Judged, int] | None:
        """The training pairs that went against the model when it saw them first, and how many it saw.

        Of all devices, each of which has to ask; None without --label_noise_file.
        """
        if self._first_sight is None:
            return None
        parts = gathered((self._first_sight.against(), self._first_sight.judged))
        return joined(against for against, _ in parts), sum(judged for _, judged in parts)


class Examples(Dataset[Example]):
    """A sequence as torch wants it."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        """How many examples."""
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        """One example."""
        return self._examples[index]


def _check_metric(name: str, validation: Sequence[Example], weights: Sequence[float]) -> None:
    if not validation:
        msg = "the best model is chosen on held-out examples: give --eval_dataset_name or --eval_fraction"
        raise UnfitData(msg)
    # Rewards that differ, or there would be no correlation.
    rewards = [[float(i + j) for j in range(len(example.sequences))] for i, example in enumerate(validation)]
    measured = Outcomes.of(validation, rewards, weights).metrics(loss=True)
    if name not in measured:
        msg = f"--metric_for_best_model {name} is not among what validation gives: {', '.join(measured)}"
        raise UnfitData(msg)


_DIVERGED = (
    "rewards are no longer finite after step {step}: training diverged. Lower --learning_rate, raise --warmup_steps,"
    " or train without --bf16 / --fp16"
)
