"""What a training run leaves beside its checkpoint. Knows runs and reports, neither drawings nor files."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reward_model.manifest import Manifest
from training.arguments import RewardTrainingArguments
from training.examples import Example
from training.outcomes import Outcomes
from training.report.log import TrainingLog, hardware
from training.report.verdicts import DataSet, Verdicts, hub_name
from training.report.writer import write_beside


def report_run(
    directory: Path,
    manifest: Manifest,
    args: RewardTrainingArguments,
    history: Iterable[Mapping[str, Any]],
    held_out: Sequence[Example],
    outcomes: Outcomes,
) -> None:
    """Writes log, scores, report and card.

    Args:
        directory: of the checkpoint.
        manifest: what was written there.
        args: the flags.
        history: what the Trainer has logged.
        held_out: may be empty: what was learned from is memory, and not reported on.
        outcomes: of `held_out`.
    """
    log = TrainingLog.of_history(
        history,
        hardware=hardware(args.device),
        processes=args.world_size,
        base_model=hub_name(str(args.model_name_or_path)),
        dataset=hub_name(str(args.dataset_name)),
    )
    verdicts = Verdicts.of_examples(_data_set(args, manifest.training), held_out, outcomes) if held_out else None
    write_beside(directory, manifest, log, verdicts if verdicts and verdicts.pairs else None)


def _data_set(args: RewardTrainingArguments, record: Mapping[str, Any]) -> DataSet:
    if args.eval_dataset_name:
        return DataSet.named(args.eval_dataset_name, record["eval_dataset_fingerprint"])
    whole = DataSet.named(str(args.dataset_name), None)
    return DataSet(f"{record['eval_dataset']}, of {whole.name}", None, whole.hub)
