"""One number everywhere: packed, in any batch, saved and loaded, equals plain transformers on one sequence alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification

from reward_model import checkpoint
from reward_model.model import RewardModel
from reward_model.packing import PackedBatch, pack
from reward_model.precision import choose_precision
from reward_model.records import Conversation, Message, as_prompt
from reward_model.rendering import Rendered

CONVERSATIONS = [
    Conversation(as_prompt("Explain gravity."), "Gravity pulls masses together."),
    Conversation(as_prompt("Explain gravity."), ""),
    Conversation((Message("system", "Be brief."), Message("user", "Hi")), "Hello"),
    Conversation((Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "?")), "Yes."),
    Conversation(as_prompt("Grüße aus 東京 🌸"), "Привет"),
    Conversation(as_prompt("the thing in the inn " * 6), "an answer in the end"),
]

MORE = {
    "electra": {"embedding_size": 32},
    "albert": {"embedding_size": 32},
    "xlm-roberta": {"max_position_embeddings": 258, "type_vocab_size": 1},
    "mistral": {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16},
    "gpt_neox": {},
}


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_a_loaded_checkpoint_scores_a_mixed_batch_like_transformers_scores_each_alone(
    architecture: str, checkpoint_of: Callable[[str], Path]
) -> None:
    directory = checkpoint_of(architecture)
    loaded = checkpoint.load(directory, device="cpu", dtype="float32")
    scores = loaded.model.score([loaded.renderer.render(conversation) for conversation in CONVERSATIONS])
    expected = [tiny.transformers_score(directory, conversation) for conversation in CONVERSATIONS]
    assert [score.value for score in scores] == pytest.approx(expected, abs=1e-5)
    assert max(expected) - min(expected) > 0.05, "scores too alike to show a mix-up"


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_the_training_forward_gives_the_served_score(architecture: str, checkpoint_of: Callable[[str], Path]) -> None:
    directory = checkpoint_of(architecture)
    loaded = checkpoint.load(directory, device="cpu", dtype="float32")
    rendered = [loaded.renderer.render(conversation) for conversation in CONVERSATIONS]
    network = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    trained = RewardModel(network, choose_precision("cpu", "float32"))
    from_forward = trained(_packed(rendered))[:, 0]
    assert from_forward.requires_grad
    assert from_forward.tolist() == pytest.approx([score.value for score in loaded.model.score(rendered)], abs=1e-5)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_bfloat16_stays_within_the_documented_error(architecture: str, checkpoint_of: Callable[[str], Path]) -> None:
    exact = checkpoint.load(checkpoint_of(architecture), device="cpu", dtype="float32")
    rounded = checkpoint.load(checkpoint_of(architecture), device="cpu", dtype="bfloat16")
    rendered = [exact.renderer.render(conversation) for conversation in CONVERSATIONS]
    pairs = zip(exact.model.score(rendered), rounded.model.score(rendered), strict=True)
    assert exact.reward is not None
    assert max(abs(a.value - b.value) for a, b in pairs) < 0.05 * exact.reward.std


@pytest.mark.parametrize("architecture", MORE)
def test_further_architectures_score_packed_like_alone(architecture: str) -> None:
    encoder = architecture in {"electra", "albert", "xlm-roberta"}
    tokenizer = tiny.tiny_tokenizer("encoder" if encoder else "decoder")
    network = tiny.tiny_model(architecture, tokenizer, **MORE[architecture])
    _assert_packed_equals_alone(
        network, [[5 + (7 * i + j * j) % 50 for j in range(n)] for i, n in enumerate((3, 17, 40, 99, 1))]
    )


@pytest.mark.parametrize("share_prefixes", [False, True])
def test_gradients_of_the_packed_forward_equal_those_of_transformers_alone(share_prefixes: bool) -> None:
    tokenizer = tiny.tiny_tokenizer("decoder")
    prompt = [5 + i % 7 for i in range(20)]
    sequences = [[*prompt, 30], [7, 7, 8, 40, 41], [*prompt, 6, 12, 9], [12], prompt]
    network = tiny.tiny_model("llama", tokenizer)
    network.set_attn_implementation("eager")
    sum(network(input_ids=torch.tensor([ids])).logits[0, 0] for ids in sequences).backward()
    expected = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    model = RewardModel(network, choose_precision("cpu", "float32"))
    model(pack(sequences, share_prefixes=share_prefixes)).sum().backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-5, msg=name)


def test_the_rightmost_token_that_is_not_padding_is_scored_even_if_padding_ids_occur_inside() -> None:
    tokenizer = tiny.tiny_tokenizer("decoder")
    network = tiny.tiny_model("llama", tokenizer)
    pad = tokenizer.pad_token_id
    _assert_packed_equals_alone(network, [[5, 9, pad], [pad, 6, pad, pad], [pad], [8, pad, 9], [pad, pad, pad]])


def test_padding_ids_inside_roberta_text_keep_fairseq_positions() -> None:
    tokenizer = tiny.tiny_tokenizer("encoder")
    network = tiny.tiny_model("roberta", tokenizer)
    pad = tokenizer.pad_token_id
    _assert_packed_equals_alone(network, [[5, pad, 9, 11], [pad, 6, 7], [5, 6, 7, pad]])


def test_without_a_padding_id_the_last_token_is_scored() -> None:
    tokenizer = tiny.tiny_tokenizer("decoder")
    network = tiny.tiny_model("gpt2", tokenizer, pad_token_id=None)
    model = _assert_packed_equals_alone(network, [[5, 9, 30], [7, 7, 8, 40, 41], [12]])
    assert model.pooling == "last"


def test_deterministic_mode_gives_bitwise_the_same_score_in_any_batch() -> None:
    tokenizer = tiny.tiny_tokenizer("decoder")
    network = tiny.tiny_model("qwen3", tokenizer)
    model = RewardModel(network, choose_precision("cpu", "bfloat16"), deterministic=True).eval()
    rendered = [Rendered(None, [5 + (i * j) % 60 for j in range(3 + 11 * i)]) for i in range(8)]
    together = [score.value for score in model.score(rendered)]
    assert together == [model.score([one])[0].value for one in rendered]
    assert together[::-1] == [score.value for score in model.score(rendered[::-1])]


def test_identical_inputs_are_computed_once_and_tie_to_the_last_bit() -> None:
    tokenizer = tiny.tiny_tokenizer("decoder")
    model = RewardModel(tiny.tiny_model("llama", tokenizer), choose_precision("cpu", "bfloat16")).eval()
    one, other = Rendered(None, [5, 6, 7]), Rendered(None, [8, 9])
    scores = model.score([one, other, one, Rendered(None, [5, 6, 7])])
    assert scores[0].value == scores[2].value == scores[3].value != scores[1].value
    assert [score.reused_tokens for score in scores] == [0, 0, 3, 3]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(6)), size=st.integers(1, 6))
def test_a_score_belongs_to_its_input_whatever_the_order_and_company(
    checkpoint_of: Callable[[str], Path], order: list[int], size: int
) -> None:
    loaded = _loaded(checkpoint_of("bert"))
    rendered = [loaded.renderer.render(conversation) for conversation in CONVERSATIONS]
    alone = [loaded.model.score([one])[0].value for one in rendered]
    chosen = order[:size]
    together = [score.value for score in loaded.model.score([rendered[i] for i in chosen])]
    assert together == pytest.approx([alone[i] for i in chosen], abs=1e-5)


_cache: dict[Path, checkpoint.Checkpoint] = {}


def _loaded(directory: Path) -> checkpoint.Checkpoint:
    if directory not in _cache:
        _cache[directory] = checkpoint.load(directory, device="cpu", dtype="float32")
    return _cache[directory]


def _packed(rendered: list[Rendered]) -> PackedBatch:
    return pack([one.token_ids for one in rendered])


def _assert_packed_equals_alone(network: tiny.PreTrainedModel, sequences: list[list[int]]) -> RewardModel:
    network.set_attn_implementation("eager")
    with torch.no_grad():
        expected = [float(network(input_ids=torch.tensor([ids])).logits[0, 0]) for ids in sequences]
    model = RewardModel(network, choose_precision("cpu", "float32")).eval()
    scores = [score.value for score in model.score([Rendered(None, ids) for ids in sequences])]
    assert scores == pytest.approx(expected, abs=1e-5)
    return model
