"""Preference pairs as packed batches: all sequences in one row of tokens, no padding, prompts perhaps shared.

Knows rendering and packing, not losses.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from reward_model.errors import InputError, TooLong
from reward_model.packing import pack
from reward_model.rendering import Rendered, Renderer
from training.data import RowReport
from training.pairs import BadRow, PreferencePair, Reason


@dataclass(frozen=True, slots=True)
class RenderedPair:
    """One training example; its prompt was cut once for both responses."""

    pair: PreferencePair
    chosen: Rendered
    rejected: Rendered


def render_pairs(pairs: Sequence[PreferencePair], renderer: Renderer, report: RowReport) -> list[RenderedPair]:
    """Renders every pair; what cannot be trained on is added to `report` and left out.

    A pair is cut in its prompt where it is too long; one whose response alone is too long is a bad row, for a response
    is never cut.
    """
    examples = []
    for pair in tqdm(pairs, desc="rendering", unit="pair", disable=None):
        try:
            examples.append(_render_different(pair, renderer))
        except BadRow as error:
            report.add(pair.line, error)
    return examples


def _render_different(pair: PreferencePair, renderer: Renderer) -> RenderedPair:
    rendered = render_pair(pair, renderer)
    if rendered.chosen.token_ids == rendered.rejected.token_ids:
        reason: Reason = "identical"
        msg = "both responses render to the same tokens"
        raise BadRow(reason, msg)
    return rendered


def render_pair(pair: PreferencePair, renderer: Renderer) -> RenderedPair:
    """Renders one pair, its prompt cut where it must be.

    Raises:
        BadRow: a response does not fit, or the template has no form for the pair.
    """
    try:
        chosen, rejected = renderer.render_group(pair.prompt, [pair.chosen, pair.rejected], truncate=True)
    except InputError as error:
        reason: Reason = "too_long" if isinstance(error, TooLong) else "not_renderable"
        raise BadRow(reason, str(error)) from error
    return RenderedPair(pair, chosen, rejected)


class PairDataset(Dataset[RenderedPair]):
    """Rendered pairs by index."""

    def __init__(self, examples: Sequence[RenderedPair]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        """How many pairs."""
        return len(self.examples)

    def __getitem__(self, index: int) -> RenderedPair:
        """One pair."""
        return self.examples[index]


def collate(examples: Sequence[RenderedPair], *, share_prefixes: bool = False) -> dict[str, Tensor]:
    """The arguments of `RewardModel.forward` for `n` pairs: first all chosen, then all rejected sequences.

    With `share_prefixes` a prompt is computed once for both responses, which takes a causal model.
    Where a pair states a margin there is also `margin` [n], 0 for pairs that state none; likewise `label` [n], 1.
    """
    rendered = [example.chosen for example in examples] + [example.rejected for example in examples]
    ids, segment_ids = [one.token_ids for one in rendered], [one.segment_ids for one in rendered]
    tensors = pack(ids, segment_ids, share_prefixes=share_prefixes).tensors()
    margins = [example.pair.margin for example in examples]
    if any(margin is not None for margin in margins):
        tensors["margin"] = torch.tensor([margin or 0.0 for margin in margins])
    if any(example.pair.label != 1 for example in examples):
        tensors["label"] = torch.tensor([example.pair.label for example in examples])
    return tensors
