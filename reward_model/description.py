"""What a manifest says of a checkpoint's files: their hashes, how they are read, and golden vectors by the reference.

Everything comes from the files as they lie on the disk, so that the manifest vouches for them. Knows neither where the
files come from nor where the manifest goes.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, pstdev

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reward_model.calibration import RewardStatistics
from reward_model.golden import MAX_GOLDEN_TOKENS, GoldenVector, golden_renderings, replay
from reward_model.manifest import Manifest, hash_file
from reward_model.model import RewardModel
from reward_model.pooling import pooling_of
from reward_model.precision import choose_precision
from reward_model.pretrained import load_network, load_tokenizer, vocabulary_of
from reward_model.reference import ReferenceModel
from reward_model.rendering import Renderer, Rendering
from reward_model.scores import Scalarisation
from reward_model.source import score_files

#: A golden score may differ by this much in fp32, in units of max(1, reward std); see docs/checkpoint.md.
FLOAT32_TOLERANCE = 1e-4
#: ... and by this much in bf16, in units of the reward std.
BFLOAT16_TOLERANCE = 0.05


def describe(
    directory: Path,
    *,
    rendering: Rendering,
    max_length: int,
    scalarisation: Scalarisation,
    reward: RewardStatistics | None = None,
    device: str = "cpu",
) -> Manifest:
    """The manifest for the files in `directory`, which the caller has found safe, without what is fitted on pairs.

    Args:
        directory: of the model and its tokenizer.
        rendering, max_length, scalarisation: how a conversation becomes a score.
        reward: its distribution, where it is known: golden scores may differ by a part of its spread.
        device: where golden scores are computed, in fp32.

    Raises:
        CheckpointRefused: the files could not be served (no template, weights that are missing, too short a limit).
    """
    network, tokenizer = load_network(directory, dtype=torch.float32), load_tokenizer(directory)
    renderer = renderer_of(network, tokenizer, rendering, max_length)
    golden_renderer = renderer.limited(min(max_length, MAX_GOLDEN_TOKENS))
    precision = choose_precision(device, "float32")
    reference = ReferenceModel(nn.Module.to(network, precision.device), scalarisation)
    manifest = Manifest(
        rendering=rendering,
        pooling=pooling_of(network.config, has_score_head=hasattr(network, "score")),
        max_length=max_length,
        template_sha256=template_hash(renderer),
        sha256=hashes(directory),
        attributes=scalarisation.names,
        scalarisation=scalarisation.weights,
        golden_max_length=golden_renderer.max_length,
        golden=golden_vectors(golden_renderer, reference),
        reward=reward,
    )
    # Whatever would be refused at load is refused now, before anything is replaced.
    served = RewardModel(network, precision, scalarisation=scalarisation).eval()
    replay(manifest.golden, golden_renderer, served, tolerance({torch.float32}, manifest.golden, reward))
    return manifest


def renderer_of(
    network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rendering: Rendering, max_length: int
) -> Renderer:
    """How a model's conversations become token ids."""
    return Renderer(
        tokenizer,
        rendering=rendering,
        max_length=max_length,
        vocab_size=vocabulary_of(network),
        takes_segments=rendering == "pair" and getattr(network.config, "type_vocab_size", 0) > 1,
    )


def template_hash(renderer: Renderer) -> str | None:
    """SHA-256 of the chat template, where there is one."""
    return renderer.template.sha256 if renderer.template else None


def golden_vectors(renderer: Renderer, reference: ReferenceModel) -> tuple[GoldenVector, ...]:
    """The golden conversations with what the reference makes of them.

    Raises:
        CheckpointRefused: most of them cannot be rendered.
    """
    return tuple(
        GoldenVector(conversation, tuple(rendered.token_ids), reference.score(rendered))
        for conversation, rendered in golden_renderings(renderer)
    )


def tolerance(dtypes: set[torch.dtype], expected: Sequence[GoldenVector], reward: RewardStatistics | None) -> float:
    """By how much golden scores may differ, where they are computed in `dtypes`.

    In units of the reward's standard deviation; where it is unknown, of how far they lie apart or from zero.
    """
    scores = [vector.score for vector in expected]
    spread = reward.std if reward is not None else max(pstdev(scores), fmean(map(abs, scores)))
    return FLOAT32_TOLERANCE * max(1.0, spread) if dtypes == {torch.float32} else BFLOAT16_TOLERANCE * spread


def hashes(directory: Path) -> dict[str, str]:
    """SHA-256 of every file that the score depends on, by name."""
    return {path.name: hash_file(path) for path in score_files(directory)}
