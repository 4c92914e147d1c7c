"""Checkpoints of a run under way: which are whole, which are of this run, and which to go on from.

A checkpoint counts from the moment that its marker is there, which is written last and says what is in it and which run
made it. Knows directories and flags, neither models nor optimisers.
"""

import json
import logging
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from reward_model.atomic import sync
from reward_model.manifest import hash_file
from reward_model.source import locate, score_files
from training.arguments import RewardTrainingArguments
from training.documents import write_document

logger = logging.getLogger(__name__)

#: The value of --resume_from_checkpoint that means the newest checkpoint there is.
AUTO = "auto"
MARKER = "complete.json"
_FORMAT_VERSION = 1

#: Flags that may differ between the parts of a run: they decide what it says, where it writes and what memory it takes.
#: What the names of models and data stand for is compared by content.
_FREE = re.compile(
    r"model_name_or_path|dataset_name|output_dir|resume_from_checkpoint|ignore_data_skip|restore_callback_.*|run_name"
    r"|report_to|project|trackio_.*|hub_.*|push_to_hub|log_.*|logging_.*|disable_tqdm|debug|skip_memory_metrics"
    r"|local_rank|do_.*|save_.*|eval_(?!fraction$).*|enable_jit_checkpoint|dataloader_(?!drop_last$).*|ddp_.*"
    r"|max_batch_tokens|(activation|gradient)_checkpointing(_kwargs)?"
)


class ResumeRefused(ValueError):
    """There is nothing that this run can be resumed from; the message says why and what to do."""


#: Of the record of a run's data.
_DATA = ("dataset_fingerprint", "pairs", "eval_dataset_fingerprint", "eval_pairs")


def describe_run(args: RewardTrainingArguments, record: dict[str, Any]) -> dict[str, Any]:
    """What a run is told by: two of which this is the same give the same weights.

    Args:
        args: its flags.
        record: of its data.
    """
    base = locate(str(args.model_name_or_path))
    flags: dict[str, Any] = args.to_dict()  # type: ignore[no-untyped-call]
    run = {
        "processes": args.world_size,
        "flags": {name: value for name, value in sorted(flags.items()) if not _FREE.fullmatch(name)},
        "data": {
            name: record[name] for name in ("dataset_fingerprint", "pairs", "eval_dataset_fingerprint", "eval_pairs")
        },
        "base": {path.name: hash_file(path) for path in score_files(base)},
    }
    return dict(json.loads(json.dumps(run, default=str)))


def choose(root: Path, wanted: str | None, run: Mapping[str, Any]) -> Path | None:
    """The checkpoint to resume from; None to start anew.

    Args:
        root: where the run keeps its checkpoints.
        wanted: a directory, `AUTO`, or None.
        run: see `describe_run`.

    Raises:
        ResumeRefused: the checkpoint is not whole, or of another run.
    """
    if wanted is None:
        return None
    if wanted != AUTO:
        directory = Path(wanted).expanduser().resolve()
        if problem := what_is_missing(directory):
            msg = (
                f"{wanted} is no whole checkpoint: {problem}; --resume_from_checkpoint {AUTO} takes the newest that is"
            )
            raise ResumeRefused(msg)
        _check_same(directory, run)
        return directory
    for directory in reversed(_checkpoints(root)):
        if problem := what_is_missing(directory):
            logger.info("%s is passed over: %s", directory, problem)
            continue
        _check_same(directory, run)
        logger.info("resuming from %s", directory)
        return directory
    logger.info("there is no whole checkpoint in %s: starting anew", root)
    return None


def begin(directory: Path) -> None:
    """Makes room for a checkpoint: what a run that was killed left there is no longer anything."""
    marker = directory / MARKER
    if marker.exists():
        marker.unlink()
        sync(directory)
    shutil.rmtree(directory, ignore_errors=True)


def complete(directory: Path, run: Mapping[str, Any]) -> None:
    """Declares whole what was written: from now on it is found."""
    (directory / MARKER).unlink(missing_ok=True)
    paths = sorted(directory.rglob("*"))
    for path in (*paths, directory, directory.parent):
        sync(path)
    sizes = {str(path.relative_to(directory)): path.stat().st_size for path in paths if path.is_file()}
    write_document({"format_version": _FORMAT_VERSION, "files": sizes, "run": dict(run)}, directory / MARKER)
    sync(directory)


def rotate(newest: Path, limit: int | None, keep: Iterable[str | None]) -> None:
    """Removes the oldest checkpoints beside `newest` where there are more than `limit`, but none of `keep`."""
    if limit is None or limit < 1:
        return
    kept = {newest, *(Path(name) for name in keep if name)}
    others = [one for one in _checkpoints(newest.parent) if one not in kept]
    for directory in others[: max(0, len(others) + len(kept) - limit)]:
        begin(directory)


def what_is_missing(directory: Path) -> str | None:
    """Why a checkpoint is not whole; None if it is."""
    if not directory.is_dir():
        return "there is no such directory"
    try:
        marker = _read(directory)
    except FileNotFoundError:
        return f"its {MARKER} was never written, so the run ended while saving it"
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return f"its {MARKER} cannot be read ({error})"
    for name, size in marker["files"].items():
        path = directory / name
        if not path.is_file() or path.stat().st_size != size:
            return f"{name} is not as it was written"
    return None


def _read(directory: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((directory / MARKER).read_text(encoding="utf-8"))
    if document["format_version"] != _FORMAT_VERSION:
        msg = f"format version {document['format_version']!r}, this release reads {_FORMAT_VERSION}"
        raise ValueError(msg)
    return {"files": dict(document["files"]), "run": dict(document["run"])}


def _check_same(directory: Path, run: Mapping[str, Any]) -> None:
    differences = list(_differences(_read(directory)["run"], run))
    if differences:
        msg = (
            f"{directory} is of another run: {'; '.join(differences)}. Give the same flags, data and base model, or"
            " another --output_dir"
        )
        raise ResumeRefused(msg)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if old != new and isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{prefix}{name} " if name != "flags" else "--")
        elif old != new:
            yield f"{prefix}{name} was {old}, is {new}"


def _checkpoints(root: Path) -> list[Path]:
    """All checkpoints, whole or not, by step."""
    found = {path: re.fullmatch(r"checkpoint-(\d+)", path.name) for path in root.glob("checkpoint-*") if path.is_dir()}
    return sorted((path for path, match in found.items() if match), key=lambda path: int(path.name.split("-")[1]))
