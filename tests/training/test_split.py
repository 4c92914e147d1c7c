"""Held-out prompts: enough of them, the same for the same seed, in any order."""

import pytest

from training.split import held_out_prompts

PROMPTS = [str(i).encode() for i in range(20)]


def test_a_share_of_the_different_prompts_is_drawn() -> None:
    assert len(held_out_prompts(PROMPTS * 3, 0.25)) == 5
    assert held_out_prompts(PROMPTS, 0.25) <= set(PROMPTS)


def test_the_draw_depends_on_prompts_and_seed_but_not_on_order() -> None:
    assert held_out_prompts(PROMPTS, 0.25, seed=1) == held_out_prompts(PROMPTS[::-1], 0.25, seed=1)
    assert held_out_prompts(PROMPTS, 0.25, seed=1) != held_out_prompts(PROMPTS, 0.25, seed=2)


@pytest.mark.parametrize(
    ("prompts", "fraction", "expected"), [(20, 0.0, 0), (20, 1e-6, 1), (20, 0.999, 19), (1, 0.5, 0)]
)
def test_a_prompt_is_held_out_if_asked_and_one_is_left(prompts: int, fraction: float, expected: int) -> None:
    assert len(held_out_prompts(PROMPTS[:prompts], fraction)) == expected
