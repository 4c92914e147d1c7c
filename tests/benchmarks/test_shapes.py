"""Operations are counted as torch counts them."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import shapes
from benchmarks.engine import run_padded


@pytest.mark.parametrize("name", ["minilm", "distilbert"])
def test_operations_are_those_that_torch_counts(name: str) -> None:
    model = shapes.build(name)
    model.set_attn_implementation("eager")
    head = 2 * model.config.hidden_size * (model.config.hidden_size + 1)
    for length in (3, 40):
        with FlopCounterMode(display=False) as counter:
            run_padded(model, [[5] * length], 1)
        assert shapes.flops(model, [length]) == counter.get_total_flops() - head
    assert shapes.flops(model, [3, 40]) == shapes.flops(model, [3]) + shapes.flops(model, [40])


@pytest.mark.parametrize("name", list(shapes.CONFIGS))
def test_what_is_spared_is_most_of_the_last_layer(name: str) -> None:
    with torch.device("meta"):
        model = shapes.build(name)
    layers = model.config.get_text_config().num_hidden_layers
    spared = 1 - shapes.flops_read_only(model, [200]) / shapes.flops(model, [200])
    assert 0.6 / layers < spared < 1 / layers
    assert shapes.flops_read_only(model, [1]) == shapes.flops(model, [1])
    left = [shapes.flops_read_only(model, [200], projections=number) for number in (3, 2, 0)]
    assert left == sorted(left, reverse=True)
    assert left[-1] > (1 - 1 / layers) * shapes.flops(model, [200])
