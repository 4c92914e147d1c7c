"""The whole stage on a tiny model: it learns, repeats itself, says when it does not, and writes what it trained."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from reward_model import checkpoint
from reward_model.records import Conversation, as_prompt
from training.arguments import RewardTrainingArguments
from training.data import NoPairs, read_preferences
from training.objectives import UnfitData
from training.pairwise import evaluate
from training.store import kept_while_used
from training.train import main, train
from training.trainer import TrainingFailed

WORDS = ("red", "blue", "green", "small", "large", "old", "new", "fast", "slow", "warm")


def write_pairs(path: Path, n: int = 120, *, first: int = 0, swap: bool = False) -> Path:
    """Pairs with a planted preference: the polite response wins. Prompts are numbered from `first`."""
    rows = []
    for i in range(first, first + n):
        a, b = WORDS[i % 10], WORDS[(i // 10) % 10]
        polite, rude = f"Gladly: the {a} one, {b}.", f"Go away {a}, {b}!"
        chosen, rejected = (rude, polite) if swap else (polite, rude)
        rows.append({"prompt": f"Which {a} or {b} number {i}?", "chosen": chosen, "rejected": rejected})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def arguments(tmp_path: Path, architecture: str = "bert", **flags: Any) -> RewardTrainingArguments:
    base = tmp_path / f"base-{architecture}"
    if not base.exists():
        tiny.tiny_base(base, architecture)
    given = {
        "model_name_or_path": str(base),
        "dataset_name": str(tmp_path / "pairs.jsonl"),
        "output_dir": str(tmp_path / "out"),
        "learning_rate": 3e-3,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "eval_fraction": 0.2,
        "disable_tqdm": True,
    }
    return RewardTrainingArguments(**given | flags)


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "llama"])
def test_a_planted_preference_is_learned_and_served_as_trained(tmp_path: Path, architecture: str) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    manifest = train(arguments(tmp_path, architecture))
    loaded = checkpoint.load(tmp_path / "out", dtype="float32")
    assert manifest.training["metrics"]["accuracy"] > 0.95
    polite, rude = (
        loaded.model.score([loaded.renderer.render(Conversation(as_prompt("Which one?"), response))])[0].value
        for response in ("Gladly: the old one.", "Go away old!")
    )
    assert polite > rude
    assert loaded.golden_max_error < 1e-5
    assert not (tmp_path / "out.trainer").exists()


def test_the_checkpoint_records_how_it_was_made(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    with (tmp_path / "pairs.jsonl").open("a") as file:
        file.write('{"prompt": "p", "chosen": "same", "rejected": "same"}\nnonsense\n')
    record = train(arguments(tmp_path)).training
    assert record["pairs"] + record["eval_pairs"] == 120
    assert record["bad_rows"]["reasons"]["identical"] == {
        "count": 1,
        "first_lines": [121],
        "example": "both responses are the same",
    }
    assert record["bad_rows"]["reasons"]["malformed"]["first_lines"] == [122]
    assert record["flags"]["learning_rate"] == 3e-3
    assert record["dataset_fingerprint"].startswith("sha256:")
    assert set(record["versions"]) == {"reward_model", "torch", "transformers", "python"}


def test_training_and_evaluation_give_the_same_number(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    held_out = write_pairs(tmp_path / "held_out.jsonl", 40, first=500)
    manifest = train(arguments(tmp_path, eval_dataset_name=str(held_out)))
    loaded = checkpoint.load(tmp_path / "out", dtype="float32")
    result = evaluate(loaded, read_preferences(str(held_out)).pairs)
    assert result.overall.accuracy == manifest.training["metrics"]["accuracy"]
    assert result.reward.mean == pytest.approx(manifest.training["metrics"]["reward_mean"], abs=1e-5)
    assert manifest.reward is not None
    assert result.reward.std == pytest.approx(manifest.reward.std, abs=1e-5)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 40)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(arguments(tmp_path, output_dir=str(tmp_path / name), seed=seed, num_train_epochs=1))
    a, b, c = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert all(a[key].equal(b[key]) for key in a)
    assert not all(a[key].equal(c[key]) for key in a)


def test_labels_the_wrong_way_round_are_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    swapped = write_pairs(tmp_path / "swapped.jsonl", 30, first=500, swap=True)
    train(arguments(tmp_path, eval_dataset_name=str(swapped)))
    assert "no better than chance: check which response the data calls chosen" in caplog.text


def test_a_model_that_gives_every_response_the_same_reward_is_not_written(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 20)
    tiny.tiny_base(tmp_path / "base-bert", "bert", initializer_range=0.0)
    with pytest.raises(TrainingFailed, match=r"nothing was learned. Raise --learning_rate"):
        train(arguments(tmp_path, learning_rate=0.0))
    assert not (tmp_path / "out").exists()


def test_rewards_that_diverge_end_training_with_advice(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 40)
    with pytest.raises(TrainingFailed, match="Lower --learning_rate"):
        train(arguments(tmp_path, learning_rate=1e30, max_grad_norm=0.0, warmup_steps=0, logging_steps=1))
    assert not (tmp_path / "out").exists()


def test_a_set_without_a_usable_pair_is_an_error_that_says_why(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "p", "chosen": "' + "long " * 300 + '", "rejected": "b"}\n')
    with pytest.raises(NoPairs, match=r"(?s)nothing is left to use.*too_long"):
        train(arguments(tmp_path, eval_fraction=0.0))


def test_without_held_out_pairs_nothing_is_called_calibrated(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 40)
    manifest = train(arguments(tmp_path, eval_fraction=0.0, num_train_epochs=1))
    assert not manifest.calibration.calibrated
    assert manifest.training["eval_pairs"] == 0


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--model_name_or_path", "m", "--dataset_name", "d", "--learning_rat", "1"], 2, "--learning_rat"),
        (["--dataset_name", "d"], 2, "--model_name_or_path is needed"),
        (["--model_name_or_path", "/nowhere", "--dataset_name", "none.jsonl"], 1, "none.jsonl: there is no such file"),
        (["--model_name_or_path", "/nowhere", "--dataset_name", "{pairs}"], 1, "not a checkpoint directory"),
    ],
)
def test_the_command_says_what_is_wrong_and_exits(
    flags: list[str], status: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = write_pairs(tmp_path / "pairs.jsonl", 4)
    argv = ["--output_dir", str(tmp_path / "out"), *(flag.format(pairs=pairs) for flag in flags)]
    try:
        code = main(argv)
    except SystemExit as ended:
        code = ended.code
    assert code == status
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_trains_from_the_shell(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    write_pairs(tmp_path / "pairs.jsonl", 24)
    names = ("model_name_or_path", "dataset_name")
    flags = [part for name in names for part in (f"--{name}", str(getattr(args, name)))]
    done = subprocess.run(
        [sys.executable, "-m", "training.train", *flags, "--output_dir", str(tmp_path / "out"), "--seed", "3"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "reward_model.json").is_file()


def test_the_flags_that_were_set_are_on_record_and_no_others(tmp_path: Path) -> None:
    rows = [{"prompt": f"Which {i // 2}?", "response": f"{'Gladly' * (i % 2)} {i}", "polite": i % 2} for i in range(24)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {
        "loss_type": "regression",
        "attributes": ["polite"],
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": '{"min_lr": 1e-05}',
    }
    flags = train(arguments(tmp_path, **given)).training["flags"]
    own = {"model_name_or_path", "dataset_name", "learning_rate", "num_train_epochs", "per_device_train_batch_size"}
    assert flags.keys() == own | {"eval_fraction", "disable_tqdm", "bf16"} | given.keys()
    assert flags["bf16"] is False, "not said, but what it was belongs to the record"
    assert flags["attributes"] == ["polite"]
    assert flags["lr_scheduler_kwargs"] == {"min_lr": 1e-5}


def test_secrets_among_the_flags_do_not_reach_the_checkpoint(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 24)
    train(arguments(tmp_path, hub_token="SECRET123", num_train_epochs=1))
    assert "SECRET123" not in (tmp_path / "out" / "reward_model.json").read_text()


def test_a_directory_with_other_files_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="would be lost"):
        train(arguments(tmp_path))
    assert (tmp_path / "out" / "thesis.txt").exists()


def test_rates_by_layer_of_a_model_without_layers_are_refused_before_data_is_rendered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.tiny_base(tmp_path / "base", "albert")
    # Its only row is a bad one, which would be the error if rows were read first.
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    names = "--model_name_or_path", str(tmp_path / "base"), "--dataset_name", str(tmp_path / "pairs.jsonl")
    assert main([*names, "--output_dir", str(tmp_path / "out"), "--layer_decay", "0.9"]) == 1
    assert "Albert" in (said := capsys.readouterr().err)
    assert "--layer_decay must be 1" in said


def test_a_second_run_leaves_what_the_first_one_uses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 4)
    place = tmp_path / ".out.examples-0"
    with kept_while_used(place):
        place.mkdir()
        names = "--model_name_or_path", "none", "--dataset_name", str(tmp_path / "pairs.jsonl")
        assert main([*names, "--output_dir", str(tmp_path / "out")]) == 1
        assert place.is_dir()
    assert "is in use by a run that has not ended" in capsys.readouterr().err


def test_a_named_evaluation_set_without_a_usable_pair_is_an_error(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 24)
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text('{"prompt": "p", "chosen": "' + "long " * 300 + '", "rejected": "b"}\n')
    with pytest.raises(NoPairs, match=r"held_out.jsonl: nothing is left to use"):
        train(arguments(tmp_path, eval_dataset_name=str(held_out)))


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
def test_gradient_checkpointing_changes_nothing_but_memory(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 24)
    for name, flag in (("plain", False), ("checkpointed", True)):
        flags = {"output_dir": str(tmp_path / name), "gradient_checkpointing": flag, "num_train_epochs": 1}
        train(arguments(tmp_path, "llama", **flags))
    plain, checkpointed = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "checkpointed"))
    assert all(torch.allclose(plain[key], checkpointed[key], atol=1e-6) for key in plain)


def test_rewards_recorded_after_bf16_training_are_those_of_the_saved_weights(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 40)
    held_out = write_pairs(tmp_path / "held_out.jsonl", 24, first=500)
    manifest = train(arguments(tmp_path, bf16=True, eval_dataset_name=str(held_out), num_train_epochs=1))
    result = evaluate(checkpoint.load(tmp_path / "out", dtype="float32"), read_preferences(str(held_out)).pairs)
    assert manifest.reward is not None
    assert result.reward.mean == pytest.approx(manifest.reward.mean, abs=1e-4)


def weights(directory: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = load_file(directory / "model.safetensors")
    return loaded


@pytest.mark.parametrize("flags", [{"max_batch_tokens": 1}, {"gradient_accumulation_steps": 4}])
def test_how_a_step_is_divided_changes_nothing_but_rounding(tmp_path: Path, flags: dict[str, int]) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 44)
    # The last step of the epoch has fewer pairs than the others.
    common = {"num_train_epochs": 1, "eval_fraction": 0.0, "learning_rate": 1e-3}
    train(arguments(tmp_path, "llama", output_dir=str(tmp_path / "whole"), per_device_train_batch_size=16, **common))
    size = 16 // flags.get("gradient_accumulation_steps", 1)
    divided = {"output_dir": str(tmp_path / "divided"), "per_device_train_batch_size": size}
    train(arguments(tmp_path, "llama", **divided, **common, **flags))
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "divided")
    assert all(torch.allclose(whole[key], parts[key], atol=2e-5) for key in whole)


def test_a_ranking_is_learned_as_one_example(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": f"Which {WORDS[i % 10]} number {i}?",
            "responses": [f"Go away {i}!", f"Gladly: the {WORDS[i % 7]} one.", f"Well, {i}."],
            "ranks": [3, 1, 2],
        }
        for i in range(80)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = train(arguments(tmp_path, "llama", num_train_epochs=3)).training
    assert record["pairs"] + record["eval_pairs"] == 240
    assert record["metrics"]["accuracy"] > 0.9


def test_ratings_are_learned_and_the_checkpoint_says_what_they_add_up_to(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": f"Which {WORDS[i // 2 % 10]} number {i // 2}?",
            "response": f"Gladly: {WORDS[i % 7]}." if i % 2 else f"Go away {WORDS[i % 7]}!",
            "polite": float(4 * (i % 2)),
            "constant": 1.0,
        }
        for i in range(160)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    regression = {"loss_type": "regression", "attributes": ["polite", "constant"], "attribute_weights": [1.0, 0.5]}
    manifest = train(arguments(tmp_path, num_train_epochs=4, **regression))
    assert manifest.attributes == ("polite", "constant")
    assert manifest.scalarisation == (1.0, 0.5)
    assert manifest.training["metrics"]["accuracy"] > 0.95
    loaded = checkpoint.load(tmp_path / "out", dtype="float32")
    (score,) = loaded.model.score([loaded.renderer.render(Conversation(as_prompt("Which one?"), "Gladly: old."))])
    assert score.attributes is not None
    assert score.attributes["polite"] == pytest.approx(4, abs=1.5)
    assert score.attributes["constant"] == pytest.approx(1, abs=0.5)
    assert score.value == pytest.approx(score.attributes["polite"] + 0.5 * score.attributes["constant"], abs=1e-4)


def test_scaling_by_margins_that_are_not_there_is_an_error(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 24)
    with pytest.raises(
        UnfitData, match=r"pairs.jsonl: scaled_bradley_terry needs margins of 0 or more; at line 1: none"
    ):
        train(arguments(tmp_path, loss_type="scaled_bradley_terry"))


def test_pairs_that_are_only_measured_need_no_margins(tmp_path: Path) -> None:
    write_pairs(tmp_path / "held_out.jsonl", 20, first=500)
    rows = [json.loads(line) for line in write_pairs(tmp_path / "pairs.jsonl", 40).read_text().splitlines()]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps({**row, "margin": 1}) + "\n" for row in rows))
    flags = {"loss_type": "scaled_bradley_terry", "eval_dataset_name": str(tmp_path / "held_out.jsonl")}
    record = train(arguments(tmp_path, **flags)).training
    assert record["eval_pairs"] == 20
    assert all(math.isfinite(value) for value in record["metrics"].values())


def test_seeds_that_differ_start_from_the_same_head(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 24)
    args = arguments(tmp_path)
    AutoModel.from_pretrained(str(args.model_name_or_path)).save_pretrained(str(args.model_name_or_path))
    for name, flags in {"a": {"seed": 1}, "b": {"seed": 2}, "c": {"seed": 1, "head_seed": 5}}.items():
        train(arguments(tmp_path, output_dir=str(tmp_path / name), learning_rate=1e-9, num_train_epochs=1, **flags))
    a, b, c = (weights(tmp_path / name)["classifier.weight"] for name in "abc")
    assert torch.allclose(a, b, atol=1e-6)
    assert not torch.allclose(a, c, atol=1e-3)
