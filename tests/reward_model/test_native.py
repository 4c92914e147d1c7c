"""Our own attention kernel says what softmax(QK^T)V written out says, in AMX's tiles and without them.

Where a CPU has no tiles, the kernel's code for them is built against tiles that are written out in C.
"""

import ctypes
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import pytest
import torch
from packed import rows_of
from torch import Tensor

from reward_model import compiled, native
from reward_model.disentangled import Distances, disentangled_attention
from reward_model.kernels import Rule, States
from reward_model.native import DistanceTiles, by_native, native_can
from reward_model.packing import pack
from reward_model.precision import has_amx, has_avx512_bf16
from reward_model.spans import Layout

pytestmark = pytest.mark.skipif(
    not has_avx512_bf16() or compiled.shared_object() is None,
    reason="the CPU lacks AVX-512 BF16, or there was no C compiler",
)

ROOT = Path(__file__).parents[2]
PREFIX = list(range(100, 137))
#: More and fewer than fit a tile, and exactly as many.
SEPARATE = [[1] * n for n in (3, 17, 1, 16, 32, 100, 33, 15)]
ALIKE = [[*PREFIX, 1, 2], [*PREFIX, *range(200, 270), 7], PREFIX, [3] * 4, [*PREFIX, *range(200, 270), 8, 8]]


@pytest.fixture(scope="module")
def with_tiles_written_out(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernels as the package builds them, but for what AMX's instructions are."""
    extension = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"][0]
    built = tmp_path_factory.mktemp("native") / "written_out.so"
    compiler = (sysconfig.get_config_var("CC") or "cc").split()
    tiles = Path(__file__).with_name("tiles_written_out.h")
    how = [*extension["extra-compile-args"], "-shared", "-fPIC", "-include", str(tiles), "-o", str(built)]
    subprocess.run([*compiler, *how, *extension["sources"], "-lm"], cwd=ROOT, check=True)
    return ctypes.CDLL(str(built))


@pytest.fixture(params=["amx", "avx512"], autouse=True)
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "avx512":
        monkeypatch.setattr(native, "has_tiles", lambda: False)
    elif not has_amx():
        kernels = request.getfixturevalue("with_tiles_written_out")
        monkeypatch.setattr(native, "has_tiles", lambda: True)
        monkeypatch.setattr(native, "shared_object", lambda: kernels)


def random(heads: int, tokens: int, size: int) -> Tensor:
    """[heads, tokens, size], as a model's projection leaves it."""
    return torch.randn(tokens, heads, size).bfloat16().transpose(0, 1)


def written_out(query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
    """[tokens, heads, size] of one sequence."""
    query, key, value = (one.double() for one in (query, key, value))
    key, value = (one.repeat_interleave(len(query) // len(one), dim=0) for one in (key, value))
    i = torch.arange(query.shape[1])
    distance = i[:, None] - i[None, :]
    unseen = (distance < 0) & rule.causal
    if rule.window is not None:
        unseen |= distance.abs() >= rule.window
    logits = (query @ key.transpose(1, 2) * rule.scale).masked_fill(unseen, -torch.inf)
    return (logits.softmax(-1) @ value).transpose(0, 1)


@pytest.mark.parametrize("window", [None, 1, 4, 40])
@pytest.mark.parametrize("sizes", [(32, 32), (64, 64), (128, 128), (8, 8), (80, 48), (2, 1)])
@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("kind", ["encoder", "decoder", "decoder that shares"])
def test_each_sequence_attends_to_itself_as_if_it_were_alone(
    kind: str, key_heads: int, sizes: tuple[int, int], window: int | None
) -> None:
    torch.manual_seed(0)
    shares = kind == "decoder that shares"
    batch = pack(ALIKE if shares else SEPARATE, share_prefixes=shares)
    tokens = len(batch.input_ids)
    query, key, value = (
        random(4, tokens, sizes[0]),
        random(key_heads, tokens, sizes[0]),
        random(key_heads, tokens, sizes[1]),
    )
    rule = Rule(sizes[0] ** -0.5, causal=kind != "encoder", window=window)
    rows = rows_of(batch)
    layout = Layout.of(batch, [one[-1] for one in rows])
    output = by_native(query, States(key, value), layout, rule)
    assert layout.read is not None
    last = by_native(query[:, layout.rows], States(key, value), layout.read, rule)
    for i, one in enumerate(rows):
        expected = written_out(query[:, one], key[:, one], value[:, one], rule)
        torch.testing.assert_close(output[one].double(), expected, rtol=0.02, atol=0.02)
        torch.testing.assert_close(last[i].double(), expected[-1], rtol=0.02, atol=0.02)


def test_weights_far_below_the_largest_are_nothing_and_large_ones_do_not_overflow() -> None:
    query, key, value = random(1, 40, 32), random(1, 40, 32), random(1, 40, 32)
    rule = Rule(1000.0, causal=False)
    output = by_native(query, States(key, value), Layout.of(pack([[1] * 40])), rule)
    torch.testing.assert_close(output.double(), written_out(query, key, value, rule), rtol=0.02, atol=0.02)


def row_of(*lengths: int) -> tuple[Layout, Tensor, States]:
    tokens = sum(lengths)
    torch.manual_seed(len(lengths))
    query = random(2, tokens, 32)
    return Layout.of(pack([[1] * n for n in lengths])), query, States(random(2, tokens, 32), random(2, tokens, 32))


@pytest.mark.parametrize("causal", [False, True])
def test_a_sequence_has_the_same_values_to_the_last_bit_whatever_stands_beside_it(causal: bool) -> None:
    layout, query, states = row_of(5, 21, 50)
    rule = Rule(0.2, causal=causal)
    together = by_native(query, states, layout, rule)
    own = slice(5, 26)
    alone = by_native(
        query[:, own], States(states.key[:, own], states.value[:, own]), Layout.of(pack([[1] * 21])), rule
    )
    assert torch.equal(together[own], alone)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(by_native(query, states, layout, rule), together)
    finally:
        torch.set_num_threads(threads)


def test_what_is_no_number_stays_with_its_sequence() -> None:
    layout, query, states = row_of(20, 21, 50)
    states.key[0, 30, 0] = torch.nan
    states.value[1, 80, 0] = torch.inf
    output = by_native(query, states, layout, Rule(0.2, causal=False))
    assert output[:20].isfinite().all()
    assert output[20:41, 0].isnan().all()
    assert output[20:41, 1].isfinite().all()
    assert output[41:, 0].isfinite().all()
    assert not output[41:, 1, 0].isfinite().any()


def test_what_fills_a_row_up_is_zero() -> None:
    layout = Layout.of(pack([[1] * 7]).lengthened(5))
    output = by_native(random(2, 12, 8), States(random(2, 12, 8), random(2, 12, 8)), layout, Rule(1.0, causal=True))
    assert output[:7].abs().min() > 0
    assert not output[7:].any()


def test_it_is_for_bf16_without_gradients_soft_caps_and_dropout() -> None:
    _, query, states = row_of(4)
    assert native_can(query, states, Rule(1.0, causal=True, window=3))
    assert not native_can(query.float(), states, Rule(1.0, causal=True))
    assert not native_can(query, states, Rule(1.0, causal=True, softcap=30.0))
    assert not native_can(query, states, Rule(1.0, causal=True, dropout=0.1))
    assert not native_can(query, States(states.key, states.value.float()), Rule(1.0, causal=True))
    assert not native_can(query, states, Rule(-1.0, causal=True))
    trained = States(states.key, states.value.clone().requires_grad_())
    assert not native_can(query, trained, Rule(1.0, causal=True))
    with torch.no_grad():
        assert native_can(query, trained, Rule(1.0, causal=True))


def test_states_that_do_not_adjoin_are_copied() -> None:
    layout, query, states = row_of(20, 7)
    rule = Rule(0.3, causal=True)
    apart = [one.transpose(1, 2).contiguous().transpose(1, 2) for one in (query, states.key, states.value)]
    assert apart[0].stride(2) != 1
    assert torch.equal(by_native(apart[0], States(*apart[1:]), layout, rule), by_native(query, states, layout, rule))


def test_where_there_is_no_memory_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    layout, query, states = row_of(4)

    class Full:
        def reward_model_attention(self, arguments: object) -> int:
            return 1

    monkeypatch.setattr(native, "shared_object", Full)
    with pytest.raises(MemoryError, match="attention over 4 keys"):
        by_native(query, states, layout, Rule(1.0, causal=True))


@pytest.mark.parametrize("size", [64, 80, 6])
def test_disentangled_attention_is_what_torch_makes_of_it(size: int) -> None:
    torch.manual_seed(0)
    batch = pack(SEPARATE).lengthened(5)
    rows = rows_of(batch)
    layout = Layout.of(batch, [one[len(one) // 2] for one in rows])
    tokens = len(batch.input_ids)
    query, key, value = (random(2, tokens, size) for _ in range(3))
    near, far = Distances.rows(max(len(one) for one in SEPARATE))
    distances = Distances(random(2, len(near), size), random(2, len(far), size))
    rule = Rule((3 * size) ** -0.5, causal=False)
    made = DistanceTiles.of(distances.by_query, distances.by_key)
    exact = Distances(distances.by_query.double(), distances.by_key.double())
    states, double = States(key, value), States(key.double(), value.double())
    expected = disentangled_attention(query.double(), double, layout, rule, exact)
    output = by_native(query, states, layout, rule, made)
    torch.testing.assert_close(output.double(), expected, rtol=0.02, atol=0.02)
    assert not output[-5:].any()
    assert layout.read is not None
    read = by_native(query[:, layout.rows], states, layout.read, rule, made)
    torch.testing.assert_close(read, output[layout.rows], rtol=0.02, atol=0.02)
    alone = slice(rows[1][0], rows[1][-1] + 1)
    own = States(key[:, alone], value[:, alone])
    assert torch.equal(by_native(query[:, alone], own, Layout.of(pack(SEPARATE[1:2])), rule, made), output[alone])
