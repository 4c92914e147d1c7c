"""What the model thought of each training pair before it had learned from it.

In the first epoch the forward pass of a training step judges pairs that the model has not seen, so that a judgement as
of a held-out pair costs nothing. Early ones come from a model that knows little. Knows packs, not files.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.batches import Pack
from training.examples import Example

#: A pair that was judged: its line, which of its line's pairs it is, chosen minus rejected reward, and how much of the
#: first epoch had passed, NaN for a pair that was held out.
JUDGED = np.dtype([("line", "<u8"), ("place", "<u4"), ("margin", "<f8"), ("epoch", "<f8")])
Judged = NDArray[Any]

_TIE = 0.5
#: Packs whose rewards may wait on the device; fetching each at once would make it wait for us.
_WAITING = 64


class FirstSight:
    """Judgements of one device, of which only those that go against the label are kept.

    Attributes:
        judged: how many pairs were looked at; ties are among them, but have no label to go against.
    """

    def __init__(self) -> None:
        self.judged = 0
        self._against: list[Judged] = []
        self._waiting: list[tuple[Tensor, Pack, Judged]] = []

    def add(self, rewards: Tensor, pack: Pack, lines: Sequence[int], epoch: float) -> None:
        """Notes the rewards [n] of a pack whose examples stand at `lines`."""
        self._waiting.append((rewards.detach(), pack, _places(pack, lines, epoch)))
        if len(self._waiting) >= _WAITING:
            self._settle()

    def against(self) -> Judged:
        """All that were noted, each once, in the order of lines."""
        self._settle()
        return joined(self._against)

    def _settle(self) -> None:
        for rewards, pack, found in self._waiting:
            values = rewards.double().cpu()
            found["margin"] = (values[pack.chosen.cpu()] - values[pack.rejected.cpu()]).numpy()
            labelled = (pack.label != _TIE).cpu().numpy()
            self.judged += len(found)
            self._against.append(found[labelled & (found["margin"] < 0)])
        self._waiting = []


def held_out(examples: Iterable[Example], margins: Sequence[float]) -> Judged:
    """The same of pairs that were never learned from.

    Args:
        examples: whose comparisons were judged.
        margins: of all comparisons, in order.
    """
    places = ((example.line, place, one.label) for example in examples for place, one in enumerate(example.comparisons))
    found = [
        (line, place, margin, np.nan)
        for (line, place, label), margin in zip(places, margins, strict=True)
        if label != _TIE and margin < 0
    ]
    return np.array(found, JUDGED)


def joined(parts: Iterable[Judged]) -> Judged:
    """One after the other, each pair once: devices share out a few examples twice to have equally many."""
    whole = np.concatenate([np.empty(0, JUDGED), *parts])
    _, first = np.unique(whole[["line", "place"]], return_index=True)
    return whole[first]


def _places(pack: Pack, lines: Sequence[int], epoch: float) -> Judged:
    """Which pairs a pack compares, their margins yet to come."""
    of = pack.examples[pack.chosen].cpu()
    # The comparisons of an example stand side by side, in the order of its row's pairs.
    _, counts = torch.unique_consecutive(of, return_counts=True)
    found = np.zeros(len(of), JUDGED)
    found["line"] = np.array(lines, np.uint64)[of.numpy()]
    found["place"] = np.concatenate([np.empty(0, int), *(np.arange(count) for count in counts.tolist())])
    found["epoch"] = epoch
    return found
