"""Batches of any size are computed in few sizes, and say the same."""

import random

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from reward_model import attention
from reward_model.model import RewardModel
from reward_model.packing import pack
from reward_model.precision import choose_precision
from reward_model.rendering import Rendered
from reward_model.sizes import round_up


@given(st.integers(1, 2**20))
def test_a_size_grows_by_a_sixteenth_at_most_and_a_small_one_not_at_all(size: int) -> None:
    rounded = round_up(size)
    assert size <= rounded <= size * 17 / 16
    assert rounded == round_up(rounded) <= round_up(size + 1)
    assert size >= 32 or rounded == size


def test_there_are_few_of_them() -> None:
    assert len({round_up(size) for size in range(4096, 8192)}) == 17


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ["bert", "roberta", "qwen3"])
def test_matrix_products_see_few_sizes_whatever_is_in_a_batch(
    architecture: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = tiny.tiny_model(architecture, tiny.tiny_tokenizer(tiny.kind_of(architecture)))
    model = RewardModel(network, choose_precision("cpu", dtype)).eval()
    rows: set[int] = set()
    for linear in (
        one for name, one in model.backbone.model.named_modules() if isinstance(one, nn.Linear) if "." in name
    ):
        linear.register_forward_pre_hook(lambda _, args: rows.add(args[0].shape[-2]))
    products: set[tuple[int, ...]] = set()
    bmm = torch.bmm
    monkeypatch.setattr(attention, "has_amx", lambda: False)
    monkeypatch.setattr(attention, "native_can", lambda *_: False)
    monkeypatch.setattr(torch, "bmm", lambda a, b: products.add((*a.shape, *b.shape)) or bmm(a, b))
    chance = random.Random(0)
    for _ in range(100):
        lengths = [chance.randint(1, 120) for _ in range(chance.randint(1, 6))]
        model.score([Rendered(None, [chance.randint(5, 40) for _ in range(length)]) for length in lengths])
    assert rows == {round_up(size) for size in rows}
    assert all(size == round_up(size) for product in products for size in product)
    assert bool(products) is (dtype == "bfloat16")


@pytest.mark.parametrize("architecture", ["bert", "roberta", "qwen3"])
def test_more_sequences_than_are_computed_as_they_are_score_as_each_alone(architecture: str) -> None:
    chance = random.Random(1)
    network = tiny.tiny_model(architecture, tiny.tiny_tokenizer(tiny.kind_of(architecture)))
    model = RewardModel(network, choose_precision("cpu", "float32")).eval()
    prompt = [chance.randint(5, 40) for _ in range(40)]
    sequences = [[*prompt[: 20 * (i % 3)], *(chance.randint(5, 40) for _ in range(1 + i % 50))] for i in range(75)]
    alone = torch.cat([model(pack([one])) for one in sequences])
    together = model(pack(sequences, share_prefixes=model.backbone.shares_prefixes))
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    parameters = [one for name, one in model.named_parameters() if "layer" in name]
    gradients = (torch.autograd.grad(scores.square().sum(), parameters) for scores in (together, alone))
    for own, right in zip(*gradients, strict=True):
        torch.testing.assert_close(own, right, rtol=1e-3, atol=1e-4)


def test_a_row_may_be_filled_up_by_more_than_a_model_has_positions() -> None:
    network = tiny.tiny_model("roberta", tiny.tiny_tokenizer("encoder"), max_position_embeddings=40)
    model = RewardModel(network, choose_precision("cpu", "float32")).eval()
    sequences = [[5 + i] * 30 for i in range(35)]
    assert round_up(30 * 35) - 30 * 35 > 32
    scores = [one.value for one in model.score([Rendered(None, ids) for ids in sequences])]
    assert scores[0] == pytest.approx(model.score([Rendered(None, sequences[0])])[0].value, abs=1e-5)


def test_what_fills_a_row_up_is_counted_as_padding() -> None:
    network = tiny.tiny_model("llama", tiny.tiny_tokenizer("decoder"))
    model = RewardModel(network, choose_precision("cpu", "float32")).freeze()
    prompt = list(range(5, 75))
    inputs = [Rendered(None, [*prompt, 5 + i]) for i in range(3)]
    assert round_up(len(prompt) + 3) == 76
    assert model.padding(inputs) == 3
    assert model.padding(inputs[:1]) == 1
