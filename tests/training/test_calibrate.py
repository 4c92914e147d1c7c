"""Any reward model of Hugging Face becomes a checkpoint of ours, and one of ours is calibrated once more."""

import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import runs
import tiny
import torch
from safetensors.torch import load_file, save_file

from reward_model.checkpoint import load
from reward_model.manifest import Manifest, read_manifest, write_manifest
from reward_model.records import Conversation, Message
from training.calibrate import REFUSED, main
from training.data import read_preferences
from training.evaluate import evaluate
from training.fingerprint import fingerprint

WORDS = ["red", "blue", "green", "small", "large", "old", "new"]
CLOCK = "{{ strftime_now('%Y') }} " + tiny.CHATML


def write_pairs(path: Path, n: int = 120) -> Path:
    chance = random.Random(5)
    rows = [
        {
            "prompt": f"Which one of the {i // 2}?",
            "chosen": " ".join(chance.choices(WORDS, k=chance.randint(1, 9))) + f" {i}",
            "rejected": " ".join(chance.choices(WORDS, k=chance.randint(1, 9))) + "!",
        }
        for i in range(n)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.jsonl")


def foreign(directory: Path, kind: str = "encoder", template: str | None = None, labels: int = 1) -> Path:
    """A model as a hub has it: without a manifest."""
    architecture = "bert" if kind == "encoder" else "llama"
    tokenizer = tiny.tiny_tokenizer(kind, chat_template=template)
    tiny.tiny_model(architecture, tokenizer, num_labels=labels).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return foreign(tmp_path / "encoder")


@pytest.fixture
def ours(checkpoint_of: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint_of("bert"), tmp_path / "ours"))


def run(model: Path | str, pairs: Path | str, *flags: object) -> int:
    required = ("--model_name_or_path", str(model), "--dataset_name", str(pairs))
    return main([*required, "--device", "cpu", "--dtype", "float32", *map(str, flags)])


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def manifest_of(directory: Path) -> Manifest:
    manifest = read_manifest(directory)
    assert manifest is not None
    return manifest


def test_a_model_gets_a_manifest_beside_its_own_files(encoder: Path, pairs: Path) -> None:
    before = contents(encoder)
    assert run(encoder, pairs) == 0
    after = contents(encoder)
    assert after.keys() - before.keys() == {"reward_model.json"}
    assert before.items() <= after.items()
    manifest = manifest_of(encoder)
    assert (manifest.rendering, manifest.max_length, manifest.format_version) == ("pair", 256, 1)
    assert manifest.calibration.calibrated
    assert manifest.training["calibrated_on"]["pairs"] == manifest.calibration.pairs == 120
    loaded = load(encoder, device="cpu", dtype="float32")
    result = evaluate(loaded, read_preferences(str(pairs)).pairs)
    assert loaded.reward == manifest.reward
    assert result.reward.mean == pytest.approx(loaded.reward.mean, abs=1e-5)
    assert result.reward.std == pytest.approx(loaded.reward.std, abs=1e-5)
    assert result.provenance.temperature == manifest.calibration.temperature != 1.0
    assert result.overall.accuracy == manifest.training["calibrated_on"]["metrics"]["accuracy"]


def test_golden_conversations_of_a_pair_encoder_are_all_in_the_form_that_it_reads(encoder: Path, pairs: Path) -> None:
    assert run(encoder, pairs) == 0
    golden = manifest_of(encoder).golden
    assert len(golden) == 12
    assert len({vector.token_ids for vector in golden}) == 12
    for vector in golden:
        assert isinstance(vector.record, Conversation)
        assert [message.role for message in vector.record.prompt] == ["user"]
        assert vector.record.finished
    assert max(len(vector.token_ids) for vector in golden) == 256, "one that was cut"
    tampered = encoder / "reward_model.json"
    tampered.write_text(tampered.read_text().replace('"score": ', '"score": 1'))
    assert run(encoder, pairs) == REFUSED


def test_a_copy_leaves_the_model_alone_and_takes_only_what_is_safe_along(encoder: Path, pairs: Path) -> None:
    for name in ("LICENSE", "README.md", "optimizer.pt", "modeling_own.py"):
        (encoder / name).write_text(name)
    before, copy = contents(encoder), encoder.with_name("copy")
    assert run(encoder, pairs, "--output_dir", copy) == 0
    assert contents(encoder) == before
    own = {name: content for name, content in before.items() if name not in {"optimizer.pt", "modeling_own.py"}}
    assert contents(copy).keys() == own.keys() | {"reward_model.json"}
    assert own.items() <= contents(copy).items()
    assert load(copy, device="cpu").manifest == manifest_of(copy)


def test_a_template_from_a_file_becomes_a_part_of_the_copy(tmp_path: Path, pairs: Path) -> None:
    model, template, copy = foreign(tmp_path / "plain", "decoder"), tmp_path / "own.jinja", tmp_path / "copy"
    template.write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}</s>")
    assert run(model, pairs) == REFUSED
    with pytest.raises(SystemExit):
        run(model, pairs, "--chat_template", template)
    assert run(model, pairs, "--chat_template", template, "--output_dir", copy) == 0
    loaded = load(copy, device="cpu", dtype="float32")
    assert loaded.renderer.render(Conversation((Message("user", "a"),), "b")).text == "[user] a [assistant] b </s>"
    assert len(manifest_of(copy).golden) == 12


def test_a_template_that_reads_the_clock_is_pinned_in_a_copy_and_refused_in_place(
    tmp_path: Path, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, copy = foreign(tmp_path / "clock", "chatml", CLOCK), tmp_path / "copy"
    with pytest.raises(SystemExit):
        run(model, pairs)
    assert "scores would differ tomorrow" in capsys.readouterr().err
    assert not (model / "reward_model.json").exists()
    assert run(model, pairs, "--output_dir", copy) == 0
    template = load(copy, device="cpu").renderer.template
    assert template is not None
    assert "strftime_now" not in template.source


def test_each_label_of_a_head_is_a_score_function_of_its_own(tmp_path: Path, pairs: Path) -> None:
    model = foreign(tmp_path / "three", labels=3)
    assert run(model, pairs) == REFUSED
    for label in ("LABEL_0", "LABEL_2"):
        assert run(model, pairs, "--score_label", label, "--output_dir", tmp_path / label) == 0
    first, third = (load(tmp_path / label, device="cpu", dtype="float32") for label in ("LABEL_0", "LABEL_2"))
    assert first.fingerprint != third.fingerprint
    rendered = first.renderer.render(Conversation((Message("user", "a"),), "b"))
    score = third.model.score([rendered])[0]
    assert score.attributes is not None
    assert score.value == pytest.approx(score.attributes["LABEL_2"])


def test_only_what_is_fitted_changes_in_a_checkpoint_of_ours(ours: Path, pairs: Path) -> None:
    write_manifest(replace(manifest_of(ours), training={"seed": 3}), ours)
    before, files = manifest_of(ours), contents(ours)
    assert run(ours, pairs) == 0
    after = manifest_of(ours)
    assert after.fingerprint == before.fingerprint
    assert after.calibration != before.calibration
    assert after.training["seed"] == 3
    assert replace(after, calibration=before.calibration, reward=before.reward, training=before.training) == before
    assert {name for name, content in contents(ours).items() if content != files.get(name)} == {"reward_model.json"}


def test_a_report_that_is_no_longer_right_is_named(ours: Path, pairs: Path, caplog: pytest.LogCaptureFixture) -> None:
    (ours / "report.html").write_text("<p>T = 1.5")
    assert run(ours, pairs) == 0
    assert f"python -m training.report --model_name_or_path {ours} --dataset_name {pairs}" in caplog.text


def test_few_pairs_give_no_calibration_and_say_why(encoder: Path, tmp_path: Path) -> None:
    assert run(encoder, write_pairs(tmp_path / "few.jsonl", 40)) == 0
    calibration = manifest_of(encoder).calibration
    assert (calibration.calibrated, calibration.reason) == (False, "fitted on 40 pairs, fewer than 100")


def test_pairs_that_cannot_be_rendered_are_counted(encoder: Path, pairs: Path, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    row = json.dumps({"prompt": turns, "chosen": [turns[1]], "rejected": [turns[1] | {"content": "d"}]})
    mixed, only = tmp_path / "mixed.jsonl", tmp_path / "only.jsonl"
    mixed.write_text(pairs.read_text() + row)
    only.write_text(row)
    assert run(encoder, mixed) == 0
    assert manifest_of(encoder).training["calibrated_on"]["bad_rows"]["reasons"]["not_renderable"]["count"] == 1
    assert run(encoder, only) == 1


def test_the_data_set_of_training_is_refused(ours: Path, pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    identity = fingerprint(read_preferences(str(pairs)).pairs)
    write_manifest(replace(manifest_of(ours), training={"dataset_fingerprint": identity}), ours)
    before = contents(ours)
    assert run(ours, pairs) == 1
    assert "was trained on this very data set" in capsys.readouterr().err
    assert contents(ours) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max_length", "50"], "a part of its score function"),
        (["--output_dir", "{model}"], "is the model itself"),
        (["--unknown", "1"], "unrecognized arguments"),
        (["--max_pairs", "0"], "must be positive"),
        (["--length_calibration", "--no_length_calibration"], "not allowed with"),
    ],
)
def test_flags_that_make_no_sense_end_in_a_sentence(
    ours: Path, pairs: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(ours, pairs, *(flag.format(model=ours) for flag in flags))
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_hub_name_needs_a_place_for_the_copy(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run("somebody/reward-model", pairs)
    assert caught.value.code == 2
    assert "name one for a copy of the model with --output_dir" in capsys.readouterr().err


def test_what_is_refused_at_load_is_refused_here(encoder: Path, pairs: Path, tmp_path: Path) -> None:
    weights = load_file(encoder / "model.safetensors")
    headless = {name: tensor for name, tensor in weights.items() if not name.startswith("classifier")}
    save_file(headless, encoder / "model.safetensors", metadata={"format": "pt"})
    assert run(encoder, pairs) == REFUSED
    torch.save(weights, encoder / "pytorch_model.bin")
    (encoder / "model.safetensors").unlink()
    assert run(encoder, pairs) == REFUSED
    assert not (encoder / "reward_model.json").exists()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("years of work")
    assert run(encoder, pairs, "--output_dir", tmp_path / "thesis") == 1


def test_a_model_without_a_spread_of_rewards_is_refused(encoder: Path, pairs: Path) -> None:
    weights = load_file(encoder / "model.safetensors")
    weights["classifier.weight"].zero_()
    save_file(weights, encoder / "model.safetensors", metadata={"format": "pt"})
    assert run(encoder, pairs) == REFUSED


def test_an_error_in_the_middle_leaves_what_was_there(
    ours: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(ours)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for flags in ([], ["--output_dir", ours.with_name("copy")]):
        assert run(ours, pairs, *flags) == 1
        assert "No space left on device" in capsys.readouterr().err
    assert contents(ours) == before
    assert [path.name for path in ours.parent.iterdir()] == ["ours"]


def die_before_the_swap(model: Path, pairs: Path, flags: list[str]) -> int:
    os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
    return run(model, pairs, *flags)


@pytest.mark.parametrize("copied", [False, True])
def test_a_kill_in_the_middle_leaves_what_was_there(ours: Path, pairs: Path, tmp_path: Path, copied: bool) -> None:
    target = Path(shutil.copytree(ours, tmp_path / "copy")) if copied else ours
    before = contents(target)
    flags = ["--output_dir", str(target)] if copied else []
    process = runs.start(die_before_the_swap, ours, pairs, flags, log=tmp_path / "log")
    assert runs.ended(process) == [-signal.SIGKILL]
    assert {name: content for name, content in contents(target).items() if not name.startswith(".")} == before


def test_a_length_calibration_is_fitted_kept_and_taken_away_again(
    ours: Path, pairs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = manifest_of(ours).fingerprint
    with caplog.at_level("INFO"):
        assert run(ours, pairs, "--length_calibration") == 0
    assert "calibrated by length" in caplog.text
    first = manifest_of(ours)
    assert first.length_calibration is not None
    assert first.fingerprint != plain
    figures = first.training["calibrated_on"]["length"]
    assert abs(figures["calibrated"]["spearman"]) < abs(figures["raw"]["spearman"])
    result = evaluate(load(ours, device="cpu", dtype="float32"), read_preferences(str(pairs)).pairs)
    assert first.reward is not None
    assert (result.reward.mean, result.reward.std) == pytest.approx((first.reward.mean, first.reward.std), abs=1e-5)
    assert result.provenance.length_calibrated
    assert "calibrated by the length of the response" in result.table()
    assert run(ours, pairs) == 0
    again = manifest_of(ours)
    assert (again.fingerprint, again.length_calibration) == (first.fingerprint, first.length_calibration)
    assert again.calibration.temperature == pytest.approx(first.calibration.temperature, rel=1e-3)
    assert run(ours, pairs, "--no_length_calibration") == 0
    assert (manifest_of(ours).fingerprint, manifest_of(ours).length_calibration) == (plain, None)


def test_a_length_calibration_needs_enough_pairs_of_different_lengths(
    ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few, alike, before = write_pairs(tmp_path / "few.jsonl", 40), tmp_path / "alike.jsonl", contents(ours)
    rows = [{"prompt": f"Which {i}?", "chosen": f"yes {i:03}", "rejected": f"not {i:03}"} for i in range(120)]
    alike.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(ours, few, "--length_calibration") == 1
    assert "takes 100 pairs on 30 prompts or more, there are 40 on 20" in capsys.readouterr().err
    assert run(ours, alike, "--length_calibration") == 1
    assert "all responses are of one length" in capsys.readouterr().err
    assert contents(ours) == before
