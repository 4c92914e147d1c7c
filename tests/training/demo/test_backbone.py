"""The demo's backbone: the known weights, without the settings of a sentence embedder."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from reward_model.errors import CheckpointRefused
from training.demo.backbone import WEIGHTS_SHA256, copy_backbone, installed_backbone


def test_the_installed_weights_are_the_known_ones_and_nothing_cuts_or_pads(tmp_path: Path) -> None:
    shipped = json.loads((installed_backbone() / "tokenizer.json").read_text())
    assert shipped["truncation"]["max_length"] == 128, "the trap this test is about"
    copy_backbone(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer("word " * 300)["input_ids"]) == 302
    assert len(tokenizer("word")["input_ids"]) == 3
    saved = tmp_path / "saved"
    tokenizer.save_pretrained(saved)
    document = json.loads((saved / "tokenizer.json").read_text())
    assert (document["truncation"], document["padding"]) == (None, None)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"something else")
    with pytest.raises(CheckpointRefused, match="not those of all-MiniLM-L6-v2"):
        copy_backbone(tmp_path / "target", source=tmp_path)
    assert len(WEIGHTS_SHA256) == 64
