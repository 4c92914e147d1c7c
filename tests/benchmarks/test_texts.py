"""What is measured with: different texts, none of them too long, the same ones every time."""

import importlib.metadata

import pytest
from transformers import AutoTokenizer

from benchmarks.texts import HELD_OUT, samples, token_ids
from training.demo.backbone import PACKAGE, installed_backbone

pytestmark = pytest.mark.skipif(
    not list(importlib.metadata.distributions(name=PACKAGE)), reason="the tokenizer comes with the demo's backbone"
)


def test_token_ids_are_different_conversations_within_the_limit() -> None:
    drawn = token_ids(str(HELD_OUT), 30, max_length=60)
    assert len(drawn) == len({tuple(ids) for ids in drawn}) == 30
    assert max(map(len, drawn)) <= 60
    assert drawn == token_ids(str(HELD_OUT), 30, max_length=60)
    assert drawn != token_ids(str(HELD_OUT), 30, max_length=60, seed=1)


def test_no_sample_has_to_be_cut() -> None:
    tokenizer = AutoTokenizer.from_pretrained(installed_backbone())
    drawn = samples(str(HELD_OUT), 30, max_length=40)
    assert len(set(drawn)) == 30
    assert max(len(tokenizer(one.prompt, one.response, truncation=False)["input_ids"]) for one in drawn) <= 40
