"""A checkpoint is served only if it gives the score it was trained to give: every refusal, with its message."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from reward_model import checkpoint
from reward_model.calibration import Calibration
from reward_model.errors import CheckpointRefused
from reward_model.manifest import hash_file, read_manifest, write_manifest
from reward_model.model import RewardModel
from reward_model.precision import choose_precision
from reward_model.records import Conversation, TokenIds, as_prompt

Make = Callable[[str], Path]
HELLO = Conversation(as_prompt("hello"), "hi")


@pytest.fixture
def directory(checkpoint_of: Make, tmp_path: Path) -> Path:
    """A copy of a tiny checkpoint, to be spoiled."""
    return Path(shutil.copytree(checkpoint_of("llama"), tmp_path / "mine"))


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A Hugging Face reward model without our manifest."""
    return tiny.tiny_base(tmp_path / "foreign", "llama")


def load(directory: Path, **options: Any) -> checkpoint.Checkpoint:
    return checkpoint.load(directory, device="cpu", **{"dtype": "float32", **options})


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_whole_checkpoint_loads_and_replays_its_golden_vectors(directory: Path) -> None:
    loaded = load(directory)
    assert loaded.golden_max_error < 1e-5
    assert loaded.manifest is not None
    assert len(loaded.manifest.golden) == 12
    lengths = [len(vector.token_ids) for vector in loaded.manifest.golden]
    assert max(lengths) == loaded.manifest.max_length
    assert loaded.name == "mine"


def test_the_manifest_survives_a_round_trip(directory: Path) -> None:
    manifest = read_manifest(directory)
    assert manifest is not None
    write_manifest(manifest, directory)
    assert read_manifest(directory) == manifest


def test_the_fingerprint_ignores_results_but_not_weights(directory: Path) -> None:
    before = load(directory).fingerprint
    (directory / "report.html").write_text("<p>results</p>")
    document = json.loads((directory / "reward_model.json").read_text())
    document["calibration"]["temperature"] = 7.0
    (directory / "reward_model.json").write_text(json.dumps(document))
    again = load(directory)
    assert (again.fingerprint, again.calibration.temperature) == (before, 7.0)
    assert load(directory, max_length=64).fingerprint != before


def test_a_flipped_bit_in_the_weights_is_refused(directory: Path) -> None:
    weights = bytearray((directory / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (directory / "model.safetensors").write_bytes(weights)
    with pytest.raises(CheckpointRefused, match=r"model.safetensors differs .*SHA-256"):
        load(directory)


def test_a_missing_file_is_refused(directory: Path) -> None:
    (directory / "chat_template.jinja").unlink()
    with pytest.raises(CheckpointRefused, match=r"chat_template.jinja is missing"):
        load(directory)


def test_other_golden_scores_are_refused(directory: Path) -> None:
    document = json.loads((directory / "reward_model.json").read_text())
    document["golden"][3]["score"] += 0.01
    (directory / "reward_model.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointRefused, match=r"golden vector 3 scores .* not the trained score"):
        load(directory)


def test_other_golden_tokens_are_refused(directory: Path) -> None:
    document = json.loads((directory / "reward_model.json").read_text())
    document["golden"][0]["token_ids"][1] += 1
    (directory / "reward_model.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointRefused, match="golden vector 0 renders to"):
        load(directory)


def test_a_lost_score_head_is_refused(foreign: Path) -> None:
    path = foreign / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(path).items() if name != "score.weight"}
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointRefused, match=r"lacks score.weight: scores would come from random numbers"):
        load(foreign)


def test_pickled_weights_are_refused(foreign: Path) -> None:
    torch.save(load_file(foreign / "model.safetensors"), foreign / "pytorch_model.bin")
    (foreign / "model.safetensors").unlink()
    with pytest.raises(CheckpointRefused, match=r"pickled \(pytorch_model.bin\)"):
        load(foreign)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_remote_code_is_refused(foreign: Path, file: str) -> None:
    edit(foreign / file, auto_map={"AutoModelForSequenceClassification": "modeling_mine.Mine"})
    with pytest.raises(CheckpointRefused, match=f"{file} asks for code of its own"):
        load(foreign)


def test_several_labels_without_a_stated_reward_are_refused(tmp_path: Path) -> None:
    base = tiny.tiny_base(tmp_path / "two", "bert", num_labels=2, id2label={0: "quality", 1: "toxicity"})
    with pytest.raises(CheckpointRefused, match=r"quality, toxicity .*RM_SCORE_LABEL"):
        load(base)
    with pytest.raises(CheckpointRefused, match="no label 'Quality'"):
        load(base, score_label="Quality")


def test_a_named_label_of_several_is_the_reward_and_the_others_are_attributes(tmp_path: Path) -> None:
    base = tiny.tiny_base(tmp_path / "two", "bert", num_labels=2, id2label={0: "quality", 1: "toxicity"})
    loaded = load(base, score_label="toxicity")
    score = loaded.model.score([loaded.renderer.render(HELLO)])[0]
    assert score.attributes is not None
    assert score.value == pytest.approx(score.attributes["toxicity"])
    assert score.attributes["quality"] != pytest.approx(score.value)


def test_a_score_label_does_not_override_what_our_checkpoint_states(directory: Path) -> None:
    with pytest.raises(CheckpointRefused, match="states its own scalarisation"):
        load(directory, score_label="LABEL_0")


def test_an_unknown_format_version_is_refused(directory: Path) -> None:
    edit(directory / "reward_model.json", format_version=3)
    with pytest.raises(CheckpointRefused, match="format version 3, this release reads 1 and 2"):
        load(directory)


@pytest.mark.parametrize(("field", "value"), [("kind", "oracle"), ("rendering", "morse"), ("pooling", "max")])
def test_an_unknown_kind_rendering_or_pooling_is_refused(directory: Path, field: str, value: str) -> None:
    edit(directory / "reward_model.json", **{field: value})
    with pytest.raises(CheckpointRefused, match=f"{field} '{value}', this release knows"):
        load(directory)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format_version": 1}'])
def test_a_damaged_manifest_is_refused(directory: Path, text: str) -> None:
    (directory / "reward_model.json").write_text(text)
    with pytest.raises(CheckpointRefused, match=r"reward_model.json cannot be read"):
        load(directory)


def test_a_manifest_edited_by_hand_is_refused(directory: Path) -> None:
    edit(directory / "reward_model.json", max_length=128)
    with pytest.raises(CheckpointRefused, match="changed by hand"):
        load(directory)


def test_pooling_other_than_the_trained_one_is_refused(directory: Path) -> None:
    """Pooling goes by config.pad_token_id: a checkpoint that lost it would be read at another token."""
    manifest = read_manifest(directory)
    assert manifest is not None
    edit(directory / "config.json", pad_token_id=None)
    hashes = manifest.sha256 | {"config.json": hash_file(directory / "config.json")}
    write_manifest(replace(manifest, sha256=hashes), directory)
    with pytest.raises(CheckpointRefused, match="trained with 'last_non_pad' pooling"):
        load(directory)


def test_an_architecture_with_unknown_pooling_is_refused(tmp_path: Path) -> None:
    base = tiny.tiny_base(tmp_path / "fnet", "fnet")
    with pytest.raises(CheckpointRefused, match="how 'fnet' models pool"):
        load(base)


@pytest.mark.parametrize("limit", [0, 201])
def test_a_max_length_the_model_cannot_read_is_refused(directory: Path, limit: int) -> None:
    with pytest.raises(CheckpointRefused, match=f"max_length {limit} is not within 1 and 200"):
        load(directory, max_length=limit)


def test_a_chat_template_file_is_only_for_checkpoints_without_one(directory: Path, tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text(tiny.CHATML)
    with pytest.raises(CheckpointRefused, match="would change the trained score"):
        load(directory, chat_template=template)


def test_a_foreign_decoder_reads_conversations_with_a_template_file(foreign: Path, tmp_path: Path) -> None:
    assert load(foreign).renderer.rendering == "text"
    template = tmp_path / "template.jinja"
    template.write_text(tiny.CHATML)
    rendered = load(foreign, chat_template=template).renderer.render(HELLO)
    assert str(rendered.text).startswith("<|im_start|>user\nhello")
    with pytest.raises(CheckpointRefused, match="cannot be read"):
        load(foreign, chat_template=tmp_path / "absent.jinja")


def test_a_foreign_encoder_scores_pairs_like_transformers(tmp_path: Path) -> None:
    base = tiny.tiny_base(tmp_path / "cross-encoder", "bert")
    loaded = load(base)
    rendered = loaded.renderer.render(HELLO)
    network = AutoModelForSequenceClassification.from_pretrained(base, attn_implementation="eager").eval()
    inputs = loaded.renderer.tokenizer("hello", "hi", return_tensors="pt", return_token_type_ids=True)
    with torch.no_grad():
        expected = float(network(**inputs).logits)
    assert rendered.segment_ids == inputs["token_type_ids"][0].tolist()
    assert loaded.model.score([rendered])[0].value == pytest.approx(expected, abs=1e-5)
    assert loaded.manifest is None


def test_what_is_not_there_or_not_a_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointRefused, match="not a checkpoint directory"):
        load(tmp_path / "file")
    with pytest.raises(CheckpointRefused, match="holds no"):
        load(tmp_path)


def test_a_device_that_is_not_there_is_refused(directory: Path) -> None:
    with pytest.raises(CheckpointRefused, match="device 'warp' cannot be used"):
        checkpoint.load(directory, device="warp")


def test_saving_replaces_the_previous_checkpoint_in_one_step(directory: Path) -> None:
    (directory / "stale.txt").write_text("from the previous run")
    save_again(directory, seed=1)
    assert not (directory / "stale.txt").exists()
    assert load(directory).golden_max_error < 1e-5
    assert [path.name for path in directory.parent.iterdir()] == ["mine"]


def test_a_save_that_fails_leaves_the_previous_checkpoint_as_it_was(directory: Path) -> None:
    before = load(directory).fingerprint
    with pytest.raises(CheckpointRefused, match="golden conversations"):
        save_again(directory, seed=1, max_length=4)
    assert load(directory).fingerprint == before
    assert [path.name for path in directory.parent.iterdir()] == ["mine"]


def save_again(directory: Path, *, seed: int, max_length: int = 200) -> None:
    loaded = load(directory)
    network = tiny.tiny_model("llama", tiny.tiny_tokenizer("decoder"), seed=seed)
    model = RewardModel(network, choose_precision("cpu", "float32"))
    checkpoint.save(
        model,
        loaded.renderer.tokenizer,
        directory,
        max_length=max_length,
        calibration=Calibration(temperature=2.0),
    )


def test_dynamic_rope_is_refused(tmp_path: Path) -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    with pytest.raises(CheckpointRefused, match="dynamic RoPE"):
        load(tiny.tiny_base(tmp_path / "dynamic", "llama", rope_parameters=rope))


def test_longrope_is_computed_alone_so_that_neighbours_do_not_matter(tmp_path: Path) -> None:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [9.0] * 4,
        "original_max_position_embeddings": 64,
    }
    loaded = load(tiny.tiny_base(tmp_path / "longrope", "llama", rope_parameters=rope))
    assert loaded.model.backbone.path == "padded"
    short, long = (loaded.renderer.render(TokenIds(tuple(range(5, 5 + n)))) for n in (20, 120))
    alone = loaded.model.score([short])[0].value
    assert loaded.model.score([long, short])[1].value == pytest.approx(alone, abs=1e-6)
    assert loaded.model.padding([short, long]) == 0


def test_another_template_in_the_manifest_is_refused(directory: Path) -> None:
    edit(directory / "reward_model.json", template_sha256="0" * 64)
    with pytest.raises(CheckpointRefused, match="not the one that the checkpoint was trained with"):
        load(directory)


def test_a_manifest_without_golden_vectors_is_refused(directory: Path) -> None:
    edit(directory / "reward_model.json", golden=[])
    with pytest.raises(CheckpointRefused, match="no golden vectors"):
        load(directory)


@pytest.mark.parametrize("temperature", [0, -1, "x", None])
def test_a_temperature_that_cannot_divide_is_refused(directory: Path, temperature: object) -> None:
    document = json.loads((directory / "reward_model.json").read_text())
    document["calibration"]["temperature"] = temperature
    (directory / "reward_model.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointRefused, match=r"reward_model.json cannot be read"):
        load(directory)


def test_a_file_that_could_change_the_score_but_is_not_recorded_is_refused(directory: Path) -> None:
    (directory / "added_tokens.json").write_text("{}")
    with pytest.raises(CheckpointRefused, match=r"added_tokens.json could change the score"):
        load(directory)


def test_a_damaged_foreign_weight_file_is_refused(foreign: Path) -> None:
    weights = (foreign / "model.safetensors").read_bytes()
    (foreign / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointRefused, match="transformers cannot load the model"):
        load(foreign)


def test_a_revision_of_a_local_directory_is_refused(directory: Path) -> None:
    with pytest.raises(CheckpointRefused, match=r"a revision .* is for models of the hub"):
        load(directory, revision="main")


def test_the_fingerprint_of_a_foreign_checkpoint_covers_the_label_and_the_template(tmp_path: Path) -> None:
    base = tiny.tiny_base(tmp_path / "two", "llama", num_labels=2, id2label={0: "a", 1: "b"})
    (tmp_path / "template.jinja").write_text(tiny.CHATML)
    options: list[dict[str, Any]] = [{}, {"chat_template": tmp_path / "template.jinja"}]
    found = {load(base, score_label=label, **option).fingerprint for label in "ab" for option in options}
    assert len(found) == 4


def test_auto_falls_back_to_fp32_where_bf16_is_too_coarse(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    manifest = read_manifest(directory)
    assert manifest is not None
    assert manifest.reward is not None
    write_manifest(replace(manifest, reward=replace(manifest.reward, std=1e-3)), directory)
    loaded = load(directory, dtype="auto")
    assert loaded.model.precision.dtype == torch.float32
    assert loaded.model.precision.reason.startswith("bf16 does not do for this checkpoint: golden vector")
    with pytest.raises(CheckpointRefused, match="not the trained score"):
        load(directory, dtype="bfloat16")
