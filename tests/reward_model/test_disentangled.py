"""DeBERTa over a packed row says what transformers says of each sequence alone, near and far, trained and frozen."""

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from architectures import tiny_network
from torch import Tensor, nn
from transformers import PreTrainedModel

from reward_model.deberta import DisentangledBackbone, PackedSelfAttention, unpack_distances
from reward_model.disentangled import Distances, shifted
from reward_model.model import RewardModel
from reward_model.packing import pack
from reward_model.precision import choose_precision
from reward_model.rendering import Rendered
from reward_model.spans import Span

#: Longer than the buckets of one distance each, and than the longest of several.
SEQUENCES = [[3 + (i * n + i * i) % 110 for i in range(n)] for n in (40, 1, 2, 17, 200, 16, 33)]
VARIANTS: dict[str, dict[str, Any]] = {
    "as published": {},
    "projections of their own": {"share_att_key": False},
    "no buckets": {"position_buckets": -1},
    "positions that end before the sequences do": {"position_buckets": -1, "max_relative_positions": 30},
    "absolute positions and segments": {"position_biased_input": True, "type_vocab_size": 2},
    "no norm of what stands for distances": {"norm_rel_ebd": "none"},
    "embeddings of another width": {"embedding_size": 16},
}


def network(**overrides: Any) -> PreTrainedModel:
    return tiny_network("deberta-v2", **overrides)


@torch.no_grad()
def alone(plain: PreTrainedModel) -> Tensor:
    return torch.stack([plain(input_ids=torch.tensor([ids])).logits[0, 0].float() for ids in SEQUENCES])


def served(model: RewardModel) -> Tensor:
    return torch.tensor([score.value for score in model.score([Rendered(None, ids) for ids in SEQUENCES])])


@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_are_those_of_transformers_whatever_the_variant(variant: str) -> None:
    expected = alone(network(**VARIANTS[variant]))
    model = RewardModel(network(**VARIANTS[variant]), choose_precision("cpu", "float32"))
    assert isinstance(model.backbone, DisentangledBackbone)
    assert expected.std() > 0.05
    torch.testing.assert_close(model(pack(SEQUENCES))[:, 0].detach(), expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(served(model.freeze()), expected, rtol=0, atol=2e-5)
    assert model.backbone.traced is not None


def test_bfloat16_rounds_no_more_than_transformers_does() -> None:
    settings = {"hidden_size": 128, "intermediate_size": 256, "pooler_hidden_size": 128, "scale": 0.1}
    exact = alone(network(**settings))
    plain = network(**settings)
    nn.Module.to(plain, torch.bfloat16)
    expected = (alone(plain) - exact).square().mean().sqrt()
    model = RewardModel(network(**settings), choose_precision("cpu", "bfloat16")).freeze()
    assert (served(model) - exact).square().mean().sqrt() <= 1.3 * expected


UNKNOWN: dict[str, dict[str, Any]] = {
    "convolutions": {"conv_kernel_size": 3, "conv_act": "gelu"},
    "no distances": {"relative_attention": False},
    "distances on one side": {"pos_att_type": ["c2p"]},
}


@pytest.mark.parametrize("variant", UNKNOWN)
def test_what_our_attention_does_not_know_is_padded(variant: str) -> None:
    expected = alone(network(**UNKNOWN[variant]))
    model = RewardModel(network(**UNKNOWN[variant]), choose_precision("cpu", "float32")).freeze()
    assert model.backbone.path == "padded"
    torch.testing.assert_close(served(model), expected, rtol=0, atol=2e-5)


def test_weights_are_dropped_as_the_model_drops_them() -> None:
    dropping = {"attention_probs_dropout_prob": 0.5, "hidden_dropout_prob": 0.0}
    model = RewardModel(network(**dropping), choose_precision("cpu", "float32")).train()
    torch.manual_seed(0)
    draws = torch.stack([model(pack(SEQUENCES)).detach()[:, 0] for _ in range(400)])
    torch.manual_seed(1)
    ids = torch.tensor([SEQUENCES[0]])
    theirs = torch.stack([model.model(input_ids=ids).logits[0, 0].detach() for _ in range(400)])
    spread = float(theirs.std())
    assert spread > 0.01
    assert abs(float(draws[:, 0].mean() - theirs.mean())) < 0.3 * spread
    assert 0.8 < float(draws[:, 0].std()) / spread < 1.25


def test_what_stands_for_distances_is_dropped_in_training_only() -> None:
    model = RewardModel(network(hidden_dropout_prob=0.5), choose_precision("cpu", "float32")).train()
    attention = attention_of(model.model)[0]
    # A projection that does nothing, of embeddings that are one: what is dropped is zero, all else is doubled.
    for project in (attention.key_proj, attention.query_proj):
        project.weight.data.copy_(torch.eye(32))
        project.bias.data.zero_()
    relative = torch.ones(2 * attention.pos_ebd_size, 32)
    dropped = attention._made(relative, 5).by_query
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert attention.eval()._made(relative, 5).by_query.unique().tolist() == [1.0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_trace_gives_the_states_of_the_modules_to_the_last_bit(dtype: str) -> None:
    model = RewardModel(network(), choose_precision("cpu", dtype)).freeze()
    assert model.backbone.traced is not None
    traced = served(model)
    model.backbone.traced = None
    assert torch.equal(served(model), traced)


def test_distances_are_made_once_where_weights_do_not_change() -> None:
    model = RewardModel(network(), choose_precision("cpu", "float32")).freeze()
    made = attention_of(model.model)[0].distances
    assert made is not None
    served(model)
    assert attention_of(model.model)[0].distances is made
    expected = served(model)
    model.backbone.traced = None
    unpack_distances(model.model)
    assert attention_of(model.model)[0].distances is None
    torch.testing.assert_close(served(model), expected, rtol=0, atol=2e-5)


def attention_of(plain: nn.Module) -> list[PackedSelfAttention]:
    return [module for module in plain.modules() if isinstance(module, PackedSelfAttention)]


def test_the_model_itself_still_runs_as_transformers_runs_it() -> None:
    plain = network()
    expected = alone(plain)
    RewardModel(plain, choose_precision("cpu", "float32"))
    assert attention_of(plain)
    torch.testing.assert_close(alone(plain), expected, rtol=0, atol=1e-6)


def test_a_model_that_nobody_needs_any_more_is_freed_at_once() -> None:
    gc.collect()
    gc.disable()
    try:
        model = RewardModel(network(), choose_precision("cpu", "float32"))
        attention = weakref.ref(attention_of(model.model)[0])
        del model
        assert attention() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sequence_longer_than_distances_reach_is_no_score(dtype: str) -> None:
    model = RewardModel(network(max_position_embeddings=32), choose_precision("cpu", dtype)).freeze()
    with pytest.raises(AssertionError, match="33 tokens are more than distances were made for"):
        model.score([Rendered(None, SEQUENCES[-1])])


def test_a_copy_has_attention_of_its_own() -> None:
    model = RewardModel(network(), choose_precision("cpu", "float32"))
    other = copy.deepcopy(model)
    before = served(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(served(model), before)
    assert served(other).abs().max() == 0


@pytest.mark.parametrize(("queries", "keys", "position"), [(1, 1, 0), (1, 9, 4), (7, 7, 0), (3, 8, 5)])
def test_shifted_products_are_those_of_each_pairs_distance(queries: int, keys: int, position: int) -> None:
    torch.manual_seed(0)
    for_queries, for_keys = Distances.rows(keys)
    of = torch.randn(len(for_queries) + 1, 4)
    distances = Distances(of[for_queries + keys][None], of[for_keys + keys][None])
    span = Span(0, queries, ((0, keys),), position)
    query, key = torch.randn(1, queries, 4), torch.randn(1, keys, 4)
    apart = (position + torch.arange(queries))[:, None] - torch.arange(keys)
    of_queries, of_keys = distances.of(span)
    own = shifted(query @ of_queries, keys)
    torch.testing.assert_close(own[0], torch.einsum("id,ijd->ij", query[0], of[apart + keys]))
    theirs = shifted(key @ of_keys, queries)
    torch.testing.assert_close(theirs[0].T, torch.einsum("jd,ijd->ij", key[0], of[apart + keys]))
