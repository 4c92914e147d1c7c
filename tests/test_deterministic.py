"""Deterministic mode: an input's score is the same to the last bit whatever else is in its batch.

A thousand random batches of inputs that share prefixes, repeat one another and come in any order, on a decoder and on
an encoder. Without the mode the same batches do not all agree, so the guarantee is the mode's.
"""

import random
import struct
from collections.abc import Iterator, Sequence

import pytest
import tiny

from reward_model.model import RewardModel
from reward_model.precision import choose_precision
from reward_model.rendering import Rendered

BATCHES = 1000
KINDS = ("qwen3", "bert")


def _inputs(draw: random.Random) -> list[Rendered]:
    """Of 1 to 80 tokens: prompts with several answers each, one that is a prefix of others, and equal ones."""

    def ids(count: int) -> list[int]:
        return [draw.randrange(5, 250) for _ in range(count)]

    sequences = [ids(1), ids(2), ids(33), ids(33)]
    for prompt in (ids(20), ids(50)):
        sequences += [prompt, [*prompt, *ids(17)]]
        sequences += [[*prompt, *ids(draw.randrange(1, 30))] for _ in range(6)]
    return [Rendered(None, sequence) for sequence in (*sequences, sequences[-1], sequences[5])]


def _batches(inputs: Sequence[Rendered], draw: random.Random) -> Iterator[list[int]]:
    for _ in range(BATCHES):
        size = draw.choice((1, 2, 2, 3, 3, 4, 6, 12))
        yield draw.choices(range(len(inputs)), k=size) if draw.random() < 0.5 else draw.sample(range(len(inputs)), size)


def _bits(model: RewardModel, inputs: Sequence[Rendered]) -> list[bytes]:
    return [struct.pack("<d", score.value) for score in model.score(inputs)]


def _that_differ(kind: str, *, deterministic: bool) -> int:
    """How many scores, in all batches, have other bits than the same input has alone."""
    draw = random.Random(f"batches for {kind}")
    inputs = _inputs(draw)
    network = tiny.tiny_model(kind, tiny.tiny_tokenizer(tiny.kind_of(kind)))
    model = RewardModel(network, choose_precision("cpu", "float32"), deterministic=deterministic).eval()
    alone = [_bits(model, [one])[0] for one in inputs]
    assert len(set(alone)) >= len(inputs) - 2, "scores too alike to show a mix-up"
    return sum(
        bits != alone[i]
        for batch in _batches(inputs, draw)
        for i, bits in zip(batch, _bits(model, [inputs[i] for i in batch]), strict=True)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_score_of_a_thousand_random_batches_has_the_bits_that_it_has_alone(kind: str) -> None:
    assert _that_differ(kind, deterministic=True) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_mode_the_same_batches_do_not_all_agree_to_the_last_bit(kind: str) -> None:
    assert _that_differ(kind, deterministic=False) > 0
