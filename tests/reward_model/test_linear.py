"""Linear layers laid out for scoring say what nn.Linear says, and are left alone where they would not."""

import gc
import weakref

import pytest
import tiny
import torch
from torch import nn
from torch.nn import functional as F

from reward_model import linear
from reward_model.linear import PackedLinear, pack_linears, unpack_linears
from reward_model.model import RewardModel
from reward_model.precision import choose_precision
from reward_model.rendering import Rendered

SEQUENCES = [[5 + (7 * i + j * j) % 50 for j in range(n)] for i, n in enumerate((3, 17, 40, 99, 1))]


ONEDNN_IN_BF16 = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()),
    reason="oneDNN multiplies no bf16 on this CPU, so fp32 is served",
)


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 300])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), pytest.param(torch.bfloat16, 0.02, marks=ONEDNN_IN_BF16)],
)
def test_it_equals_the_plain_product(dtype: torch.dtype, tolerance: float, rows: int, bias: bool, gelu: bool) -> None:
    torch.manual_seed(0)
    x, weight, b = (torch.randn(shape).to(dtype) for shape in ((1, rows, 48), (80, 48), (80,)))
    weight /= 7
    result = PackedLinear(weight, b if bias else None, gelu=gelu)(x)
    expected = F.linear(x.double(), weight.double(), b.double() if bias else None)
    assert result.dtype == dtype
    torch.testing.assert_close(result.double(), F.gelu(expected) if gelu else expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("architecture", [*tiny.ARCHITECTURES, "albert", "electra"])
def test_a_frozen_model_scores_as_before(architecture: str) -> None:
    encoder = architecture not in tiny.DECODERS
    overrides = {"embedding_size": 32} if architecture in {"albert", "electra"} else {}
    network = tiny.tiny_model(architecture, tiny.tiny_tokenizer("encoder" if encoder else "decoder"), **overrides)
    inputs = [Rendered(None, ids) for ids in SEQUENCES]
    model = RewardModel(network, choose_precision("cpu", "float32")).eval()
    expected = [score.value for score in model.score(inputs)]
    base = getattr(network, network.base_model_prefix)
    weights = [weakref.ref(one.weight) for one in base.modules() if type(one) is nn.Linear]
    frozen = model.freeze()
    assert [score.value for score in frozen.score(inputs)] == pytest.approx(expected, abs=1e-6)
    assert any(isinstance(one, PackedLinear) for one in base.modules())
    gc.collect()
    held = [one for one in weights if one() is not None]
    assert len(held) == (getattr(base, "pooler", None) is not None), "a weight is held twice"


@pytest.mark.parametrize(("capability", "within"), [("AVX512", True), ("AVX2", False)])
def test_gelu_is_computed_with_the_product_before_it_where_that_is_faster(
    capability: str, within: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    network = tiny.tiny_model("bert", tiny.tiny_tokenizer("encoder"))
    assert pack_linears(network.bert.encoder)
    for layer in network.bert.encoder.layer:
        assert f"gelu={within}" in repr(layer.intermediate.dense)
        assert "gelu=False" in repr(layer.output.dense)
        assert isinstance(layer.intermediate.intermediate_act_fn, nn.Identity) == within


def test_another_activation_stays_where_it_is() -> None:
    network = tiny.tiny_model("bert", tiny.tiny_tokenizer("encoder"), hidden_act="relu")
    assert pack_linears(network.bert.encoder)
    assert "gelu=False" in repr(network.bert.encoder.layer[0].intermediate.dense)
    assert not isinstance(network.bert.encoder.layer[0].intermediate.intermediate_act_fn, nn.Identity)


def test_unpacked_it_is_what_it_was() -> None:
    network = tiny.tiny_model("bert", tiny.tiny_tokenizer("encoder"))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    inputs = {"input_ids": torch.tensor([SEQUENCES[3]])}
    expected = network(**inputs).logits
    assert pack_linears(network.bert.encoder)
    assert network.state_dict().keys() != before.keys()
    unpack_linears(network.bert.encoder)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    torch.testing.assert_close(network(**inputs).logits, expected)


def test_a_model_that_looks_into_its_linear_layers_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    network = tiny.tiny_model("llama", tiny.tiny_tokenizer("decoder"))
    layer = network.model.layers[0].mlp
    monkeypatch.setattr(layer, "forward", lambda x: F.linear(x, layer.gate_proj.weight)[..., :32])
    model = RewardModel(network, choose_precision("cpu", "float32")).eval()
    inputs = [Rendered(None, ids) for ids in SEQUENCES]
    expected = model.score(inputs)
    assert model.freeze().score(inputs) == expected
    assert type(layer.gate_proj) is nn.Linear


def broken(weight: torch.Tensor, bias: torch.Tensor | None, *, gelu: bool = False) -> nn.Module:
    msg = "could not create a primitive"
    raise RuntimeError(msg)


def wrong(weight: torch.Tensor, bias: torch.Tensor | None, *, gelu: bool = False) -> nn.Module:
    return nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)


@pytest.mark.parametrize("operators", [broken, wrong])
def test_where_the_operators_do_not_work_nothing_is_replaced(
    operators: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "PackedLinear", operators)
    network = tiny.tiny_model("bert", tiny.tiny_tokenizer("encoder"))
    before = repr(network)
    assert not pack_linears(network.bert)
    assert repr(network) == before


def test_weights_of_another_dtype_are_left_alone() -> None:
    layers = nn.Sequential(nn.Linear(4, 4, dtype=torch.float64))
    assert not pack_linears(layers)
    assert type(layers[0]) is nn.Linear
