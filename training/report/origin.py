"""How a checkpoint came about, and what it takes to make it again. Knows the training record, not trainers."""

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from training.arguments import RewardTrainingArguments
from training.report.subject import Subject

_FIRST = ("model_name_or_path", "dataset_name", "eval_dataset_name")
#: transformers fills in some flags that nobody gave, with what they stand for anyway.
_DEFAULTS = {flag.name: flag.default for flag in fields(RewardTrainingArguments)}
#: Versions are listed under these names.
_PACKAGES = {"reward_model": "reward-model-service"}


def command(subject: Subject) -> str | None:
    """The command line, one flag a line; None where it is not on record."""
    flags = subject.record.get("flags")
    if not flags:
        return None
    processes = subject.log.processes if subject.log else 1
    program = f"torchrun --nproc_per_node {processes}" if processes > 1 else "python"
    first = {name: flags[name] for name in _FIRST if name in flags} | {"output_dir": subject.name}
    lines = [
        f"--{name} {_argument(v)}"
        for name, v in (first | flags).items()
        if name in first or v not in ("", [], _DEFAULTS.get(name))
    ]
    return " \\\n    ".join([f"{program} -m training.train", *lines])


def facts(subject: Subject) -> list[tuple[str, str]]:
    """What is on record, by name."""
    return [*_data(subject.record), *_making(subject), *_versions(subject.record)]


def _data(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "dataset" in record:
        yield "training data", f"{record['dataset']}: {record['pairs']:,} pairs"
        yield "its fingerprint", str(record.get("dataset_fingerprint"))
        yield "rows not used", _rows(record.get("bad_rows"))
    if "eval_dataset" in record:
        yield "held-out data", f"{record['eval_dataset']}: {record['eval_pairs']:,} pairs"
        if identity := record.get("eval_dataset_fingerprint"):
            yield "its fingerprint", str(identity)
        yield "rows not used", _rows(record.get("eval_bad_rows"))


def _making(subject: Subject) -> Iterator[tuple[str, str]]:
    record, log = subject.record, subject.log
    for parent in record.get("parents", ()):
        yield "averaged from", f"{parent['name']} (weight {parent['weight']:.3g}), {parent['fingerprint']}"
    if "seed" in record:
        yield "seed", str(record["seed"])
    if subject.manifest:
        yield "tokens read", f"{subject.manifest.max_length:,} at most"
    if log:
        yield "hardware", f"{log.hardware}" + (f", {log.processes} processes" if log.processes > 1 else "")
        if log.points:
            yield "steps", f"{max(one['step'] for one in log.points):,.0f}"
        if log.seconds is not None:
            yield "duration", f"{_duration(log.seconds)} since it was last started"


def _versions(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for package, version in record.get("versions", {}).items():
        yield _PACKAGES.get(package, package), str(version)


def _rows(report: Mapping[str, Any] | None) -> str:
    if not report or not report["rejected"]:
        return "none"
    # Counts only: what was wrong with one may quote it.
    return ", ".join(f"{kind['count']:,} {reason}" for reason, kind in sorted(report["reasons"].items()))


def _argument(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(shlex.quote(str(one)) for one in value)
    return shlex.quote(value if isinstance(value, str) else json.dumps(value))


def _duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{seconds:.1f} s"
