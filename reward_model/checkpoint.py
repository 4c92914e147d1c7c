"""A checkpoint directory: written whole or not at all, and loaded only if it gives the score it was trained to give.

`load` also adopts a foreign Hugging Face reward model, with transformers' semantics; what it cannot vouch for it
refuses. Knows nothing of how the model was trained or is served.
"""

import gc
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from reward_model.atomic import replaced_directory
from reward_model.backbone import usable_positions
from reward_model.calibration import UNCALIBRATED, Calibration, RewardStatistics
from reward_model.description import describe, golden_vectors, hashes, renderer_of, template_hash, tolerance
from reward_model.errors import CheckpointRefused, DtypeRefused, GoldenMismatch
from reward_model.golden import MAX_GOLDEN_TOKENS, replay
from reward_model.manifest import (
    KIND,
    Manifest,
    fingerprint,
    read_manifest,
    verify_files,
    write_manifest,
)
from reward_model.model import RewardModel
from reward_model.precision import DtypeName, Precision, choose_precision
from reward_model.pretrained import load_network, load_tokenizer, save_pretrained
from reward_model.reference import ReferenceModel
from reward_model.rendering import Renderer, Rendering
from reward_model.scores import Scalarisation
from reward_model.source import check_safe, locate


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that has been loaded and verified.

    Attributes:
        name: the directory's name, or the hub's.
        manifest: None for a foreign checkpoint, which has no record of how it was trained.
        fingerprint: identity of the score function.
        golden_max_error: largest absolute error of the golden replay; for a foreign checkpoint, of the comparison
            with transformers made at load.
    """

    name: str
    model: RewardModel
    renderer: Renderer
    manifest: Manifest | None
    fingerprint: str
    golden_max_error: float

    @property
    def calibration(self) -> Calibration:
        """The fitted calibration, or the identity."""
        return self.manifest.calibration if self.manifest else UNCALIBRATED

    @property
    def reward(self) -> RewardStatistics | None:
        """Distribution of held-out rewards, where it is known."""
        return self.manifest.reward if self.manifest else None


@dataclass(frozen=True, slots=True)
class Options:
    """How a checkpoint is to be read; see `load`."""

    revision: str | None = None
    max_length: int | None = None
    chat_template: Path | None = None
    score_label: str | None = None
    deterministic: bool = False


def load(name: str | Path, *, device: str = "auto", dtype: DtypeName = "auto", **options: Any) -> Checkpoint:
    """Loads and verifies a checkpoint.

    Args:
        name: a directory, or a hub name (with `revision`).
        device, dtype: see `reward_model.precision`. Where `auto` means bf16 and that is too coarse for the golden
            vectors of this checkpoint, it is loaded in fp32 instead, and says so.
        options: the fields of `Options`:
            max_length, to read fewer tokens than the checkpoint's own limit;
            chat_template, a Jinja file for a foreign checkpoint without a template;
            score_label, which label of a foreign head with several is the reward;
            deterministic, see `RewardModel`.

    Raises:
        CheckpointRefused: it would not give the trained score; the message says why.
    """
    precision = choose_precision(device, dtype)
    try:
        return _load(name, precision, Options(**options))
    except (GoldenMismatch, DtypeRefused) as error:
        if dtype != "auto" or precision.dtype == torch.float32:
            raise
        reason = f"bf16 does not do for this checkpoint: {error}"
    # Out here, where the error no longer keeps the first model in memory; that refers to itself.
    gc.collect()
    return _load(name, replace(precision, dtype=torch.float32, reason=reason), Options(**options))


def _load(name: str | Path, precision: Precision, options: Options) -> Checkpoint:
    directory = locate(str(name), options.revision)
    check_safe(directory)
    manifest = read_manifest(directory)
    if manifest is not None:
        verify_files(manifest, directory)
    tokenizer = load_tokenizer(directory)
    network = load_network(directory)
    scalarisation = _scalarisation(network, manifest, options.score_label)
    _adopt_template(tokenizer, manifest, options.chat_template)
    limit = _max_length(network, tokenizer, manifest, options.max_length)
    rendering = manifest.rendering if manifest else _foreign_rendering(network, tokenizer)
    renderer = renderer_of(network, tokenizer, rendering, limit)
    if manifest is None:
        # Nothing was recorded, so transformers speaks first, in the stored dtype, before the model is converted.
        golden_limit = min(limit, MAX_GOLDEN_TOKENS)
        reference = ReferenceModel(nn.Module.to(network, precision.device), scalarisation)
        expected = golden_vectors(renderer.limited(golden_limit), reference)
    else:
        golden_limit, expected = manifest.golden_max_length, manifest.golden
    within = tolerance({network.dtype, precision.dtype}, expected, manifest.reward if manifest else None)
    model = RewardModel(network, precision, scalarisation=scalarisation, deterministic=options.deterministic).freeze()
    if manifest is not None and manifest.template_sha256 != template_hash(renderer):
        msg = "the chat template is not the one that the checkpoint was trained with (SHA-256 mismatch)"
        raise CheckpointRefused(msg)
    if manifest is not None and model.pooling != manifest.pooling:
        msg = f"trained with {manifest.pooling!r} pooling, but transformers would now pool {model.pooling!r}"
        raise CheckpointRefused(msg)
    error = replay(expected, renderer.limited(golden_limit), model, within)
    if manifest is not None:
        model.length_calibration = manifest.length_calibration  # not before: golden scores are raw
        identity = replace(manifest, max_length=limit).fingerprint
    else:
        own = _foreign_identity(directory, tokenizer, scalarisation)
        identity = fingerprint(own, KIND, rendering, model.pooling, limit)
    return Checkpoint(
        name=directory.resolve().name if Path(name).expanduser().is_dir() else str(name),
        model=model,
        renderer=renderer,
        manifest=manifest,
        fingerprint=identity,
        golden_max_error=error,
    )


def save(
    model: RewardModel,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    *,
    max_length: int,
    calibration: Calibration = UNCALIBRATED,
    reward: RewardStatistics | None = None,
    training: dict[str, Any] | None = None,
) -> Manifest:
    """Writes a checkpoint that `load` and transformers' `AutoModelForSequenceClassification` both read.

    The directory appears, or replaces the previous one, in one step. The golden scores come from the files just
    written, by the reference, so that they vouch for what is on disk.

    Raises:
        CheckpointRefused: what was written cannot be served (no template, pickled parts, too short a max_length).
        OSError: it cannot be written; see `replaced_directory`.
    """
    with replaced_directory(directory) as staging:
        save_pretrained(model.model, tokenizer, staging)
        check_safe(staging)
        described = describe(
            staging,
            rendering="chat_template",
            max_length=max_length,
            scalarisation=model.scalarisation,
            reward=reward,
        )
        manifest = replace(described, calibration=calibration, training=training or {})
        write_manifest(manifest, staging)
    return manifest


def _scalarisation(network: PreTrainedModel, manifest: Manifest | None, score_label: str | None) -> Scalarisation:
    labels = [str(label) for _, label in sorted((network.config.id2label or {}).items())]
    if manifest is not None:
        if score_label is not None:
            msg = "RM_SCORE_LABEL is for foreign checkpoints: this one states its own scalarisation"
            raise CheckpointRefused(msg)
        if len(manifest.attributes) != len(labels) or len(manifest.scalarisation) != len(labels):
            msg = f"the head has {len(labels)} labels, the manifest weighs {len(manifest.scalarisation)}"
            raise CheckpointRefused(msg)
        return Scalarisation(manifest.attributes, manifest.scalarisation)
    if score_label is None and len(labels) == 1:
        return Scalarisation()
    if score_label not in labels:
        wanted = "no scalarisation is stated" if score_label is None else f"there is no label {score_label!r}"
        msg = f"the head has the labels {', '.join(labels)} and {wanted}: name the reward with RM_SCORE_LABEL"
        raise CheckpointRefused(msg)
    return Scalarisation(tuple(labels), tuple(float(label == score_label) for label in labels))


def _adopt_template(tokenizer: PreTrainedTokenizerBase, manifest: Manifest | None, chat_template: Path | None) -> None:
    if chat_template is None:
        return
    if manifest is not None or tokenizer.chat_template is not None:
        msg = "the checkpoint has a chat template of its own: RM_CHAT_TEMPLATE would change the trained score"
        raise CheckpointRefused(msg)
    try:
        tokenizer.chat_template = chat_template.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"the chat template file cannot be read: {error}"
        raise CheckpointRefused(msg) from error


def _max_length(
    network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, manifest: Manifest | None, asked: int | None
) -> int:
    usable = usable_positions(network)
    own = manifest.max_length if manifest else min(usable, tokenizer.model_max_length)
    limit = own if asked is None else asked
    if not 0 < limit <= min(own, usable):
        msg = f"max_length {limit} is not within 1 and {min(own, usable)}, the tokens this checkpoint can read"
        raise CheckpointRefused(msg)
    return int(limit)


def _foreign_rendering(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Rendering:
    if tokenizer.chat_template is not None:
        return "chat_template"
    return "text" if hasattr(network, "score") else "pair"


def _foreign_identity(
    directory: Path, tokenizer: PreTrainedTokenizerBase, scalarisation: Scalarisation
) -> dict[str, str]:
    """The files' hashes and what settings add to them: the template, and which label is the reward."""
    settings = {"chat_template": str(tokenizer.chat_template), "scalarisation": repr(scalarisation)}
    return hashes(directory) | {name: sha256(value.encode()).hexdigest() for name, value in settings.items()}
