"""The trial at load: what it finds out, what it lets pass, and that it leaves a model as it was."""

from typing import Any

import architectures as known
import pytest
import torch
from torch import Tensor
from transformers import LlamaForSequenceClassification, PreTrainedModel

from reward_model.architectures import choose_backbone
from reward_model.attention import PACKED
from reward_model.backbone import PackedBackbone
from reward_model.errors import CheckpointRefused
from reward_model.model import RewardModel
from reward_model.packing import PackedBatch
from reward_model.precision import choose_precision
from reward_model.trial import TRIES, Trial


def packed(network: PreTrainedModel) -> PackedBackbone:
    network.set_attn_implementation(PACKED)
    return PackedBackbone(network)


def judged(network: PreTrainedModel, *, share_prefixes: bool = False) -> str | None:
    trial = Trial(network)
    return trial.of_states(packed(network).hidden_states, share_prefixes=share_prefixes)


def test_the_right_states_pass_shared_or_not() -> None:
    assert judged(known.tiny_network("llama")) is None
    assert judged(known.tiny_network("llama"), share_prefixes=True) is None


def test_sharing_the_prefixes_of_a_model_that_looks_ahead_does_not_pass() -> None:
    assert judged(known.tiny_network("bert")) is None
    assert judged(known.tiny_network("bert"), share_prefixes=True) is not None


@pytest.mark.parametrize("kind", ["minimax", "doge", "esm", "mobilebert"])
def test_packed_states_that_depend_on_the_neighbours_do_not_pass(kind: str) -> None:
    assert "off by" in str(judged(known.tiny_network(kind)))


@pytest.mark.parametrize(
    ("kind", "reason"), [("gpt_oss", "does not know: s_aux"), ("nemotron", "TypeError"), ("phimoe", "off by")]
)
def test_where_packing_fails_sequences_are_padded_and_the_log_says_why(
    kind: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    backbone = choose_backbone(network := known.tiny_network(kind), Trial(network))
    assert (backbone.path, backbone.shares_prefixes) == ("padded", False)
    assert reason in backbone.reason
    assert any(reason in record.getMessage() for record in caplog.records)


def test_a_model_whose_states_nothing_gives_is_refused() -> None:
    network = known.tiny_network("longformer")  # its first token sees further than the others, if its head says so
    with pytest.raises(CheckpointRefused, match="cannot be scored with 'longformer' models as transformers scores"):
        choose_backbone(network, Trial(network))


@pytest.mark.parametrize("kind", ["bart", "xmod"])
def test_a_model_that_wants_more_than_token_ids_is_refused(kind: str) -> None:
    with pytest.raises(CheckpointRefused, match=f"cannot score plain token ids with this '{kind}' model"):
        Trial(known.tiny_network(kind))


@pytest.mark.parametrize("window", [known.WINDOW, 4096])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["qwen2", "modernbert", "gemma2"])
def test_a_window_one_token_off_is_found_however_long_it_is_and_however_coarse_the_numbers(
    kind: str, dtype: torch.dtype, window: int
) -> None:
    option = {"local_attention": 2 * window} if kind == "modernbert" else {"sliding_window": window}
    network = known.tiny_network(kind, **option).to(dtype)
    trial, backbone = Trial(network), packed(network)
    assert trial.of_states(backbone.hidden_states, share_prefixes=False) is None
    for module in network.modules():
        if isinstance(getattr(module, "sliding_window", None), int):
            module.sliding_window += 1
    assert trial.of_states(backbone.hidden_states, share_prefixes=False) is not None


def test_sparse_attention_that_looks_dense_on_short_inputs_is_found() -> None:
    network = known.tiny_network("axk2", index_topk=2048)
    assert "off by" in choose_backbone(network, Trial(network)).reason


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["mistral", "modernbert", "axk2"])
def test_a_trial_leaves_the_model_as_it_was(kind: str, dtype: torch.dtype) -> None:
    network = known.tiny_network(kind, **({"local_attention": 129} if kind == "modernbert" else {})).to(dtype).train()
    before = _everything(network)
    trial = Trial(network)
    trial.of_scores(_raises)
    assert _everything(network) == before


def _raises(_: PackedBatch) -> Tensor:
    raise RuntimeError


def _everything(network: PreTrainedModel) -> list[Any]:
    return [
        [
            (name, id(p), p.dtype, p.data_ptr(), float(p.detach().double().sum()))
            for name, p in network.named_parameters()
        ],
        [(module.training, len(module._forward_hooks), len(module._forward_pre_hooks)) for module in network.modules()],
        [getattr(module, "sliding_window", None) for module in network.modules()],
        network.config.to_dict(),
        network.base_model.config.to_dict(),
        network.config._attn_implementation,
    ]


class Doubled(LlamaForSequenceClassification):
    """A class of its own, which does more with its scores than transformers' classes do."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = 2 * output.logits
        return output


def test_a_head_that_is_not_read_as_its_own_class_reads_it_is_refused() -> None:
    with pytest.raises(CheckpointRefused, match=r"the head of Doubled is not read .* off by 50 %"):
        RewardModel(Doubled(known.tiny_config("llama")), choose_precision("cpu", "float32"))


class Flaky:
    """States that are right but for the first `wrong` times: what a router's near tie looks like."""

    def __init__(self, network: PreTrainedModel, wrong: int) -> None:
        self._backbone = packed(network)
        self._wrong = wrong
        self.calls = 0

    def hidden_states(self, batch: PackedBatch) -> Tensor:
        self.calls += 1
        return self._backbone.hidden_states(batch) + (self.calls <= self._wrong)


@pytest.mark.parametrize("wrong", range(TRIES + 1))
def test_a_difference_by_chance_is_forgiven_one_that_stays_is_not(wrong: int) -> None:
    network = known.tiny_network("mixtral")
    trial, flaky = Trial(network), Flaky(network, wrong)
    problem = trial.of_states(flaky.hidden_states, share_prefixes=False)
    assert (problem is None, flaky.calls) == (wrong < TRIES, min(wrong + 1, TRIES))


def test_states_that_are_not_finite_do_not_pass() -> None:
    network = known.tiny_network("llama")
    assert Trial(network).of_states(
        lambda batch: torch.full((len(batch.input_ids), 32), torch.nan), share_prefixes=False
    )
