"""Any encoder or decoder becomes a base with a well-defined score."""

import json
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from reward_model.errors import CheckpointRefused
from reward_model.template import DECODER_TEMPLATE, ENCODER_TEMPLATE
from training.base import PAD_TOKEN, load_base


def headless(directory: Path, architecture: str, **overrides: object) -> Path:
    """A base model as it comes from pre-training: no score head, no template."""
    tokenizer = tiny.tiny_tokenizer(tiny.kind_of(architecture))
    AutoModel.from_config(tiny.tiny_model(architecture, tokenizer, **overrides).config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_every_architecture_gets_a_head_a_template_and_its_own_weights(architecture: str, tmp_path: Path) -> None:
    base = load_base(str(headless(tmp_path / "base", architecture)))
    assert base.network.config.num_labels == 1
    expected = ENCODER_TEMPLATE if architecture in tiny.ENCODERS else DECODER_TEMPLATE
    assert base.tokenizer.chat_template == expected
    stored = load_file(tmp_path / "base" / "model.safetensors")
    loaded = getattr(base.network, base.network.base_model_prefix).state_dict()
    shared = {name: tensor for name, tensor in stored.items() if name in loaded}
    # A decoder's own padding token has a row of its own, after those of the base.
    assert all(torch.equal(loaded[name][: len(tensor)], tensor) for name, tensor in shared.items())
    assert {name for name in stored if name not in loaded} <= {"pooler.dense.weight", "pooler.dense.bias"}
    assert base.positions == 256


def test_a_padding_token_that_ends_conversations_is_replaced(tmp_path: Path) -> None:
    directory = headless(tmp_path / "base", "llama")
    config = json.loads((directory / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": "</s>"}))
    base = load_base(str(directory))
    assert base.tokenizer.pad_token == PAD_TOKEN
    assert base.network.config.pad_token_id == base.tokenizer.pad_token_id
    assert base.network.get_input_embeddings().num_embeddings == len(base.tokenizer)


def test_a_padding_token_that_content_can_contain_is_replaced_too(tmp_path: Path) -> None:
    base = load_base(str(headless(tmp_path / "base", "llama")))
    assert base.tokenizer.pad_token == PAD_TOKEN
    assert base.tokenizer("<pad>", add_special_tokens=False)["input_ids"] != [base.tokenizer.pad_token_id]


def test_a_directory_that_is_no_model_is_refused_in_one_line(tmp_path: Path) -> None:
    directory = headless(tmp_path / "base", "bert")
    (directory / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(CheckpointRefused, match="as a sequence classifier"):
        load_base(str(directory))


def test_the_bases_own_template_is_kept_and_its_clock_pinned(tmp_path: Path) -> None:
    directory = headless(tmp_path / "base", "llama")
    (directory / "chat_template.jinja").write_text("{{ strftime_now('%Y') }}" + DECODER_TEMPLATE)
    template = str(load_base(str(directory)).tokenizer.chat_template)
    assert "strftime_now" not in template
    assert template.endswith(DECODER_TEMPLATE)


def test_a_base_with_a_head_for_other_labels_gets_a_new_one(tmp_path: Path) -> None:
    base = load_base(str(tiny.tiny_base(tmp_path / "classifier", "bert", num_labels=3)))
    assert base.network.classifier.weight.shape == (1, 32)


def test_a_base_that_lacks_more_than_its_head_is_refused(tmp_path: Path) -> None:
    path = headless(tmp_path / "base", "bert") / "model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if "layer.1." not in k}, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointRefused, match="only its head may be new"):
        load_base(str(path.parent))


def test_dropout_is_off_unless_asked_for(tmp_path: Path) -> None:
    directory = headless(tmp_path / "base", "bert")
    for disable, expected in ((True, {0.0}), (False, {0.1})):
        network = load_base(str(directory), disable_dropout=disable).network
        assert {m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)} == expected


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_heads_are_told_apart_by_their_seed_not_by_what_is_below(architecture: str, tmp_path: Path) -> None:
    base = str(headless(tmp_path / "base", architecture))
    other = str(headless(tmp_path / "other", architecture, seed=1))
    first = load_base(base).head_initialisation
    assert load_base(other).head_initialisation == first
    assert load_base(base, head_seed=1).head_initialisation != first
    assert load_base(base, labels=("a", "b")).head_initialisation != first


def test_a_head_that_the_base_has_already_is_where_training_begins(tmp_path: Path) -> None:
    base = str(tiny.tiny_base(tmp_path / "base", "bert"))
    other = str(tiny.tiny_base(tmp_path / "other", "bert", seed=1))
    assert load_base(base).head_initialisation == load_base(base, head_seed=1).head_initialisation
    assert load_base(base).head_initialisation != load_base(other).head_initialisation


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
def test_a_tokenizer_that_is_not_there_is_not_made_up(tmp_path: Path, architecture: str) -> None:
    tiny.tiny_base(tmp_path, architecture)
    for path in tmp_path.glob("tok*"):
        path.unlink()
    with pytest.raises(CheckpointRefused, match="there is no tokenizer beside the model"):
        load_base(str(tmp_path))
