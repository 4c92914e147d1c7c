"""The checkpoints an average is made of, and whether they can be averaged at all.

Weights that were trained apart can be averaged where training began at the same point: the same architecture and the
same head, so that what a weight means is the same in all of them. Knows manifests and configurations, not weights.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reward_model.errors import CheckpointRefused
from reward_model.manifest import Manifest, read_manifest
from reward_model.source import check_safe, locate

#: What of a configuration says nothing about what is computed from the weights.
_IMMATERIAL = ("transformers_version", "_name_or_path", "dtype", "torch_dtype", "use_cache")


@dataclass(frozen=True, slots=True)
class Parent:
    """A checkpoint of ours that goes into an average.

    Attributes:
        name: as it was given.
        directory: where its files are.
        manifest: what it says about itself.
        weight: its share of the average; only proportions count.
    """

    name: str
    directory: Path
    manifest: Manifest
    weight: float

    @property
    def head_initialisation(self) -> str | None:
        """What its head was before training; see `training.base.Base`."""
        return self.manifest.training.get("head_initialisation")

    @property
    def bases(self) -> list[str]:
        """The models that training began with; an average has those of its parents."""
        record = self.manifest.training
        base = record.get("flags", {}).get("model_name_or_path")
        return list(record.get("bases", [] if base is None else [base]))


def read_parents(names: Sequence[str], weights: Sequence[float]) -> tuple[Parent, ...]:
    """Finds checkpoints and checks that they can be averaged.

    Args:
        names: directories or hub names.
        weights: one for each.

    Returns:
        In an order that does not depend on that of `names`, so that sums do not either.

    Raises:
        CheckpointRefused: one is not a checkpoint of ours, two are the same, or they cannot be averaged.
    """
    parents = sorted(map(_read, names, weights), key=lambda parent: parent.manifest.fingerprint)
    seen: dict[str, str] = {}
    for parent in parents:
        files = {name: value for name, value in parent.manifest.sha256.items() if name.endswith(".safetensors")}
        twin = seen.setdefault(json.dumps(sorted(files.items())), parent.name)
        if twin != parent.name or names.count(parent.name) > 1:
            msg = f"{twin} and {parent.name} have the same weights: name each checkpoint once"
            raise CheckpointRefused(msg)
    if len(parents) < 2:
        msg = "an average needs two checkpoints or more"
        raise CheckpointRefused(msg)
    first, *others = parents
    for other in others:
        _check_alike(first, other)
    return tuple(parents)


def _read(name: str, weight: float) -> Parent:
    try:
        directory = locate(name)
        check_safe(directory)
        manifest = read_manifest(directory)
    except CheckpointRefused as error:
        msg = f"{name}: {error}"
        raise CheckpointRefused(msg) from error
    if manifest is None:
        msg = f"{name} has no reward_model.json: only checkpoints that training.train wrote can be averaged"
        raise CheckpointRefused(msg)
    parent = Parent(name, directory, manifest, weight)
    if parent.head_initialisation is None:
        msg = f"{name} does not say which head its training began with: train it again with this version"
        raise CheckpointRefused(msg)
    return parent


def _check_alike(first: Parent, other: Parent) -> None:
    ours, theirs = _material(first), _material(other)
    for what in ours:
        if ours[what] != theirs[what]:
            msg = (
                f"{first.name} and {other.name} cannot be averaged, their {what} differ:"
                f" {_difference(ours[what], theirs[what])}"
            )
            raise CheckpointRefused(msg)


def _material(parent: Parent) -> dict[str, Any]:
    """What must be the same in all parents, the most telling first."""
    manifest = parent.manifest
    config = json.loads((parent.directory / "config.json").read_text(encoding="utf-8"))
    return {
        "architectures": config.pop("architectures", None),
        "attributes": manifest.attributes,
        "scalarisations (--attribute_weights)": manifest.scalarisation,
        "configurations": _computing(config),
        "limits (max_length)": manifest.max_length,
        "renderings": manifest.rendering,
        "poolings": manifest.pooling,
        "chat templates": manifest.template_sha256,
        "tokenizers": manifest.sha256.get("tokenizer.json"),
        "tokens of the golden conversations": [vector.token_ids for vector in manifest.golden],
        "heads before training (--head_seed)": parent.head_initialisation,
    }


def _computing(config: Mapping[str, Any]) -> dict[str, Any]:
    """What is computed from the weights; dropout is for training only, and members may well differ in it."""
    return {
        key: _computing(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in _IMMATERIAL and "drop" not in key
    }


def _difference(ours: Any, theirs: Any) -> str:
    if not isinstance(ours, Mapping):
        return f"{_short(ours)} and {_short(theirs)}"
    keys = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    return "; ".join(f"{key} {_short(ours.get(key))} and {_short(theirs.get(key))}" for key in keys)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
