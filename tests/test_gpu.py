"""On a GPU scores are those of the reference, as on a CPU: packed, shared, deterministic, and when memory runs out.

What can also be run on a CPU is, so that it is known to hold before a GPU sees it.
"""

import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch

from reward_model.checkpoint import load
from reward_model.model import RewardModel
from reward_model.precision import DtypeName, choose_precision
from reward_model.reference import ReferenceModel
from reward_model.rendering import Rendered
from service.isolation import Failure, launch_isolated, result_of, run_isolated
from service.scorer import ModelScorer

GPU = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))
EVERYWHERE = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
ARCHITECTURES = (*tiny.ARCHITECTURES, "gemma2", "mistral")
MORE: dict[str, dict[str, object]] = {
    "gemma2": {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16},
    "mistral": {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16},
}
#: Share of the scores' standard deviation by which one may be off.
TOLERANCE: dict[DtypeName, float] = {"float32": 1e-3, "bfloat16": 0.2}


def inputs(seed: int = 0) -> list[Rendered]:
    """Of 1 to 90 tokens; some begin alike, one is a prefix of others, two are equal."""
    draw = random.Random(seed)

    def ids(count: int) -> list[int]:
        return [draw.randrange(5, 250) for _ in range(count)]

    sequences = [ids(1), ids(2), ids(33), ids(64), ids(65)]
    for prompt in (ids(20), ids(60)):
        sequences += [prompt, *([*prompt, *ids(draw.randrange(1, 30))] for _ in range(6))]
    return [Rendered(None, one) for one in [*sequences, sequences[-1]]]


def model_of(kind: str, device: str, dtype: DtypeName, *, deterministic: bool = False) -> RewardModel:
    network = tiny.tiny_model(kind, tiny.tiny_tokenizer(tiny.kind_of(kind)), **MORE.get(kind, {}))
    return RewardModel(network, choose_precision(device, dtype), deterministic=deterministic).freeze()


@EVERYWHERE
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_mixed_batch_scores_as_the_reference_scores_each_alone(kind: str, dtype: DtypeName, device: str) -> None:
    network = tiny.tiny_model(kind, tiny.tiny_tokenizer(tiny.kind_of(kind)), **MORE.get(kind, {}))
    reference = ReferenceModel(network)
    expected = torch.tensor([reference.score(one) for one in inputs()])
    scores = torch.tensor([one.value for one in model_of(kind, device, dtype).score(inputs())])
    assert (scores - expected).abs().max() <= TOLERANCE[dtype] * expected.std()


@EVERYWHERE
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_responses_to_one_prompt_score_as_each_by_itself_and_cost_less(dtype: DtypeName, device: str) -> None:
    model = model_of("qwen3", device, dtype)
    prompt = list(range(5, 105))
    group = [Rendered(None, [*prompt, *range(110 + i, 130 + 2 * i)]) for i in range(16)]
    alone = torch.tensor([model.score([one])[0].value for one in group])
    together = model.score(group)
    assert (torch.tensor([one.value for one in together]) - alone).abs().max() <= TOLERANCE[dtype] * alone.std()
    assert [one.reused_tokens >= len(prompt) for one in together] == [False] + [True] * 15


@EVERYWHERE
@pytest.mark.parametrize("kind", ["qwen3", "bert"])
def test_deterministic_scores_are_the_same_to_the_last_bit_in_any_batch(kind: str, device: str) -> None:
    model = model_of(kind, device, "bfloat16", deterministic=True)
    given = inputs()
    alone = [_bits(model.score([one])[0].value) for one in given]
    draw = random.Random(0)
    for _ in range(200):
        chosen = draw.choices(range(len(given)), k=draw.choice((2, 3, 6, 12)))
        scores = model.score([given[i] for i in chosen])
        assert [_bits(one.value) for one in scores] == [alone[i] for i in chosen]


def _bits(value: float) -> bytes:
    return struct.pack("<d", value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_where_memory_runs_out_a_batch_is_scored_in_parts(checkpoint_of: Callable[[str], Path]) -> None:
    scorer = ModelScorer(load(checkpoint_of("llama"), device="cuda", dtype="bfloat16"))
    draw = random.Random(0)
    batch = [Rendered(None, [draw.randrange(5, 250) for _ in range(200)]) for _ in range(4000)]
    expected = [one.value for first in range(0, 4000, 100) for one in scorer.run(batch[first : first + 100])]
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    ballast = torch.empty(free - 2**27, dtype=torch.uint8, device="cuda")
    launched = launch_isolated(scorer.launch, batch)
    result = result_of(launched, batch)
    assert result is Failure.OUT_OF_MEMORY
    outcomes = run_isolated(scorer.run, batch, result)
    del ballast
    scores = [one.value for one in outcomes if not isinstance(one, Failure)]
    assert scores == pytest.approx(expected, abs=0.05 * float(torch.tensor(expected).std()))
