"""The parity matrix: what every architecture scores here, packed, shared or padded, is what transformers scores alone.

Tolerance: 1e-5 of the largest score, which is 1 to 10. fp32 has a rounding error of 6e-8 for each operation; over two
layers of width 32 the ways compared here differ by 1e-7 to 9e-6, while a token that is seen or missed moves a score
by 1e-2 and more, as the tests of wrong packing show.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

import architectures as known
import pytest
import tiny
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import CONFIG_MAPPING, PreTrainedModel

from reward_model import checkpoint, division, lanes
from reward_model.backbone import Backbone
from reward_model.errors import CheckpointRefused, DtypeRefused
from reward_model.model import RewardModel
from reward_model.packing import PackedBatch, pack
from reward_model.pooling import pooling_of
from reward_model.precision import choose_precision
from reward_model.records import Conversation, Message, as_prompt
from reward_model.reference import ReferenceModel
from reward_model.rendering import Rendered
from reward_model.scores import Scalarisation
from reward_model.template import DECODER_TEMPLATE

TOLERANCE = 1e-5
WEIGHTS = Scalarisation(("helpful", "harmless", "brief"), (1.0, -0.5, 0.25))
#: What transformers itself pads without changing the score; in the others, padding is not masked everywhere.
PADDABLE = tuple(kind for kind in known.SUPPORTED if kind not in known.IN_EQUAL_LENGTHS)


def _ids(count: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, known.VOCABULARY, (count,), generator=generator).tolist()


A, B = _ids(60, 1), _ids(60, 2)
#: Prefixes that are nested, one that is a whole sequence, two equal sequences, equal lengths, a single token.
SEQUENCES = [
    A[:50], B[:7], [*A[:30], *B[:20]], A[:30], [9], B[:40], A[:50], [*A[:30], *B[:20], *A[50:55]], A, [*A[:18], 5],
]  # fmt: skip
#: They share nothing with those.
OTHERS = [_ids(40, seed) for seed in range(3, 7)]


@dataclass(frozen=True)
class Case:
    model: RewardModel
    rewards: list[float]
    labels: Tensor

    def tolerance(self) -> float:
        return TOLERANCE * max(1.0, float(self.labels.abs().max()))


def plain_labels(network: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> Tensor:
    """[n, labels] of transformers alone, each sequence by itself."""
    network.set_attn_implementation("eager")
    with torch.no_grad():
        return torch.cat([network(input_ids=torch.tensor([ids])).logits for ids in sequences])


@cache
def case(kind: str, num_labels: int = 1) -> Case:
    network = known.tiny_network(kind, num_labels=num_labels)
    scalarisation = WEIGHTS if num_labels == 3 else None
    reference = ReferenceModel(network, scalarisation)
    rewards = [reference.score(Rendered(None, ids)) for ids in SEQUENCES]
    labels = plain_labels(network, SEQUENCES)
    model = RewardModel(network, choose_precision("cpu", "float32"), scalarisation=scalarisation).eval()
    return Case(model, rewards, labels)


def largest_error(measured: Tensor, expected: Tensor) -> float:
    return float((measured - expected).abs().max())


@pytest.mark.parametrize("kind", known.SUPPORTED)
def test_a_batch_scores_like_transformers_scores_each_alone(kind: str) -> None:
    it = case(kind)
    scores = it.model.score([Rendered(None, ids) for ids in SEQUENCES])
    assert [score.value for score in scores] == pytest.approx(it.rewards, abs=it.tolerance())
    assert max(it.rewards) - min(it.rewards) > 0.1, "scores too alike to show a mix-up"


@pytest.mark.parametrize("kind", known.SUPPORTED)
def test_each_alone_scores_like_transformers(kind: str) -> None:
    it = case(kind)
    scores = [it.model.score([Rendered(None, ids)])[0].value for ids in SEQUENCES]
    assert scores == pytest.approx(it.rewards, abs=it.tolerance())


@pytest.mark.parametrize("kind", known.SUPPORTED)
def test_with_gradients_and_without_sharing_the_labels_are_the_same(kind: str) -> None:
    it = case(kind)
    labels = it.model(pack(SEQUENCES))
    assert labels.requires_grad
    assert largest_error(labels.detach(), it.labels) <= it.tolerance()


@pytest.mark.parametrize("kind", known.PACKED_DECODERS)
def test_shared_prefixes_change_nothing_with_gradients_either(kind: str) -> None:
    it = case(kind)
    assert it.model.backbone.shares_prefixes
    batch = pack(SEQUENCES, share_prefixes=True)
    assert batch.parents is not None
    assert len(batch.input_ids) < sum(map(len, SEQUENCES)) - 100
    assert largest_error(it.model(batch).detach(), it.labels) <= it.tolerance()


@pytest.mark.parametrize("kind", known.SUPPORTED)
def test_every_label_of_a_head_with_several_is_that_of_transformers(kind: str) -> None:
    it = case(kind, 3)
    scores = it.model.score([Rendered(None, ids) for ids in SEQUENCES])
    attributes = torch.tensor([list((score.attributes or {}).values()) for score in scores])
    assert largest_error(attributes, it.labels) <= it.tolerance()
    assert [score.value for score in scores] == pytest.approx(it.rewards, abs=2 * it.tolerance())


@pytest.mark.parametrize("kind", PADDABLE)
def test_a_batch_that_transformers_pads_scores_the_same(kind: str) -> None:
    it = case(kind)
    network = known.tiny_network(kind)
    network.set_attn_implementation("eager")
    pad = network.config.get_text_config().pad_token_id
    rows = [torch.tensor(ids) for ids in SEQUENCES]
    with torch.no_grad():
        labels = network(
            input_ids=pad_sequence(rows, batch_first=True, padding_value=pad),
            attention_mask=pad_sequence([torch.ones_like(row) for row in rows], batch_first=True),
        ).logits
    # Chunks of a linear attention start elsewhere in a longer row, so that more is rounded.
    slack = 10 if "linear_attention" in (getattr(network.config.get_text_config(), "layer_types", None) or ()) else 1
    assert largest_error(labels, it.labels) <= slack * it.tolerance()


@pytest.mark.parametrize("kind", known.SUPPORTED)
def test_a_frozen_model_scores_the_same(kind: str) -> None:
    it = case(kind)
    model = RewardModel(known.tiny_network(kind), choose_precision("cpu", "float32")).freeze()
    scores = [score.value for score in model.score([Rendered(None, ids) for ids in SEQUENCES])]
    # oneDNN adds up in another order than MKL, which the reference uses.
    assert scores == pytest.approx(it.rewards, abs=5 * it.tolerance())


@pytest.mark.parametrize("kind", known.SUPPORTED)
def test_two_cores_that_share_out_a_batch_score_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(division, "FEWEST_TOKENS", 0)
    it = case(kind)
    model = RewardModel(known.tiny_network(kind), choose_precision("cpu", "float32")).freeze()
    inputs = [Rendered(None, ids) for ids in [*SEQUENCES, *OTHERS]]
    divided: list[int] = []
    start = lanes.Lanes.start

    def spied(
        mine: lanes.Lanes, function: Callable[[Any], Any], items: Sequence[Any], *, short: bool
    ) -> list[Future[Any]]:
        divided.append(len(items))
        return start(mine, function, items, short=short)

    monkeypatch.setattr(lanes.Lanes, "start", spied)
    with cores(2):
        scores = [score.value for score in model.score(inputs)[: len(SEQUENCES)]]
    assert divided == ([] if kind in known.IN_EQUAL_LENGTHS else [2])
    assert scores == pytest.approx(it.rewards, abs=5 * it.tolerance())


@contextmanager
def cores(number: int) -> Iterator[None]:
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("kind", known.SUPPORTED)
def test_bfloat16_is_run_the_same_way_as_fp32_or_refused(kind: str) -> None:
    model = RewardModel(known.tiny_network(kind), choose_precision("cpu", "bfloat16"))
    ours = case(kind).model.backbone
    assert (model.backbone.path, model.backbone.shares_prefixes) == (ours.path, ours.shares_prefixes)
    assert model.model.get_input_embeddings().weight.dtype == torch.bfloat16
    if kind in known.FLOAT32_ONLY:
        with pytest.raises(DtypeRefused, match="cannot be computed in bfloat16"):
            model.freeze()
    else:
        scores = [score.value for score in model.freeze().score([Rendered(None, ids) for ids in SEQUENCES])]
        assert all(isfinite(score) for score in scores)


@pytest.mark.parametrize(
    ("kinds", "path", "reason"),
    [
        (known.PACKED_DECODERS, "packed", "prefixes in common are computed once"),
        (known.PACKED_ENCODERS + known.PACKED_UNSHARED, "packed", "no sequence is padded"),
        (known.PADDED_ENCODERS + known.PADDED_DECODERS, "padded", "pack"),
        (known.IN_EQUAL_LENGTHS, "padded", "padded, it does not give the states that transformers gives"),
    ],
)
def test_each_architecture_is_run_the_way_it_is_listed_under(kinds: Sequence[str], path: str, reason: str) -> None:
    backbones = {kind: case(kind).model.backbone for kind in kinds}
    assert {backbone.path for backbone in backbones.values()} == {path}
    assert [kind for kind, backbone in backbones.items() if reason not in backbone.reason] == []


@pytest.mark.parametrize("kind", known.REFUSED)
def test_what_pools_in_a_way_that_is_not_known_is_refused_with_the_reason(kind: str) -> None:
    score_head = kind.startswith("t5gemma")
    with pytest.raises(CheckpointRefused, match="decoder that reads it" if score_head else "decoder that|how .* pool"):
        pooling_of(CONFIG_MAPPING[kind](), has_score_head=score_head)


def test_the_page_about_architectures_names_every_one_of_them() -> None:
    page = (Path(__file__).parents[2] / "docs" / "architectures.md").read_text(encoding="utf-8")
    assert [kind for kind in (*known.SUPPORTED, *known.REFUSED) if f"`{kind}`" not in page] == []


GRADIENTS = ("bert", "modernbert", "albert", "deberta-v2", "gpt2", "llama", "mistral", "gemma2", "qwen3_moe")


@pytest.mark.parametrize("kind", GRADIENTS)
def test_the_gradients_of_a_loss_are_those_of_transformers(kind: str) -> None:
    network = known.tiny_network(kind)
    network.set_attn_implementation("eager")
    alone = torch.cat([network(input_ids=torch.tensor([ids])).logits for ids in SEQUENCES])
    expected = _gradients(network, alone)
    model = RewardModel(network, choose_precision("cpu", "float32"))
    batch = pack(SEQUENCES, share_prefixes=model.backbone.shares_prefixes)
    measured = _gradients(network, model(batch))
    assert set(measured) == set(expected)
    for name, gradient in expected.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(measured[name], gradient, rtol=0, atol=1e-5 + 1e-4 * scale, msg=name)


def _gradients(network: PreTrainedModel, labels: Tensor) -> dict[str, Tensor]:
    network.zero_grad()
    # One pair after the other, as chosen and rejected.
    torch.nn.functional.softplus(labels[1::2] - labels[::2]).sum().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


# The matrix can fail: each of these is wrong in one way, and found out.


class Leaking:
    """A backbone that forgets every other bound: two sequences are computed as if they were one."""

    path, reason, shares_prefixes = "packed", "wrong on purpose", False

    def __init__(self, right: Backbone) -> None:
        self._right = right

    def hidden_states(self, batch: PackedBatch, rows: Sequence[int] | None = None) -> Tensor:
        bounds = batch.cu_seqlens[::2]
        assert bounds[-1] == len(batch.input_ids)
        return self._right.hidden_states(replace(batch, cu_seqlens=bounds, ends=batch.ends // 2), None)

    def padding(self, lengths: Sequence[int]) -> int:
        return self._right.padding(lengths)


@pytest.mark.parametrize("kind", known.PACKED)
def test_a_packing_that_leaks_from_one_sequence_to_the_next_does_not_pass(kind: str) -> None:
    it = case(kind)
    right = it.model.backbone
    it.model.backbone = Leaking(right)
    try:
        labels = it.model(pack(SEQUENCES)).detach()
    finally:
        it.model.backbone = right
    assert largest_error(labels, it.labels) > 100 * it.tolerance()


WINDOWED = ("mistral", "qwen2", "gemma2", "gemma3_text", "olmo3", "modernbert", "phi3")


@pytest.mark.parametrize("kind", WINDOWED)
@pytest.mark.parametrize("off", [-1, 1])
def test_a_window_that_is_one_token_off_does_not_pass(kind: str, off: int) -> None:
    it = case(kind)
    model = RewardModel(known.tiny_network(kind), choose_precision("cpu", "float32")).eval()
    _move_windows(model.model, off)
    labels = model(pack(SEQUENCES)).detach()
    assert largest_error(labels, it.labels) > 100 * it.tolerance()


def _move_windows(network: PreTrainedModel, off: int) -> None:
    holders = [one for one in network.modules() if isinstance(getattr(one, "sliding_window", None), int)]
    if not holders:
        # Phi-3 reads it off the config as it goes.
        holders = [network.base_model.config]
    for one in holders:
        one.sliding_window += off


def test_a_soft_cap_that_is_left_out_does_not_pass() -> None:
    it = case("gemma2")
    model = RewardModel(known.tiny_network("gemma2"), choose_precision("cpu", "float32")).eval()
    for module in model.modules():
        if hasattr(module, "attn_logit_softcapping"):
            module.attn_logit_softcapping = None
    assert largest_error(model(pack(SEQUENCES)).detach(), it.labels) > it.tolerance()


# Padding ids and templates of decoders: conventions of the tokenizer that must not matter.

DECODERS = ("gpt2", "gpt_neox", "llama", "mistral", "qwen3", "gemma3_text", "bloom")
ENDED = [[*ids, known.EOS] for ids in SEQUENCES]


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("pad", [known.EOS, None], ids=["pad==eos", "no pad"])
def test_decoders_pool_as_transformers_does_where_padding_is_the_end_token_or_missing(
    kind: str, pad: int | None
) -> None:
    network = known.tiny_network(kind, pad_token_id=pad)
    expected = plain_labels(network, ENDED)
    model = RewardModel(network, choose_precision("cpu", "float32")).eval()
    assert model.pooling == ("last" if pad is None else "last_non_pad")
    scores = torch.tensor([[score.value] for score in model.score([Rendered(None, ids) for ids in ENDED])])
    assert largest_error(scores, expected) <= TOLERANCE * float(expected.abs().max())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", DECODERS)
def test_on_which_side_the_tokenizer_pads_does_not_matter(kind: str, side: str) -> None:
    it = case(kind)
    tokenizer = tiny.tiny_tokenizer("decoder")
    tokenizer.padding_side = side
    network = known.tiny_network(kind)
    network.set_attn_implementation("eager")
    padded = tokenizer.pad({"input_ids": SEQUENCES}, return_tensors="pt")
    mask = padded["attention_mask"]
    # Bloom has no positions but distances; the others are told where sequences begin.
    positions = {} if kind == "bloom" else {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    with torch.no_grad():
        labels = network(**padded, **positions).logits
    assert largest_error(labels, it.labels) <= it.tolerance()


CONVERSATIONS = [
    Conversation(as_prompt("Explain gravity, and why the apple falls."), "Gravity pulls masses together."),
    Conversation(as_prompt("Explain gravity, and why the apple falls."), "It does not."),
    Conversation((Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "?")), "Yes."),
]


@pytest.mark.parametrize("template", [DECODER_TEMPLATE, tiny.CHATML], ids=["with BOS", "without BOS"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_checkpoint_scores_what_its_own_template_renders(kind: str, template: str, side: str, tmp_path: Path) -> None:
    tokenizer = tiny.tiny_tokenizer("decoder", chat_template=template)
    tokenizer.padding_side = side
    tokenizer.save_pretrained(tmp_path)
    known.tiny_network(
        kind, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, max_position_embeddings=1024
    ).save_pretrained(tmp_path)
    loaded = checkpoint.load(tmp_path, device="cpu", dtype="float32")
    rendered = [loaded.renderer.render(conversation) for conversation in CONVERSATIONS]
    with_bos = [one.token_ids.count(tokenizer.bos_token_id) for one in rendered]
    assert with_bos == [1 if template == DECODER_TEMPLATE else 0] * len(CONVERSATIONS)
    expected = [tiny.transformers_score(tmp_path, conversation) for conversation in CONVERSATIONS]
    scores = [score.value for score in loaded.model.score(rendered)]
    assert scores == pytest.approx(expected, abs=TOLERANCE * max(map(abs, expected)))
