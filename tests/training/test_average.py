"""An average of checkpoints is one ordinary checkpoint, and what cannot be averaged is refused."""

import json
import logging
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from tokenizers.normalizers import Lowercase

from reward_model import checkpoint
from reward_model.errors import CheckpointRefused
from reward_model.length_calibration import LengthCalibration
from reward_model.manifest import read_manifest, write_manifest
from reward_model.model import RewardModel
from reward_model.precision import choose_precision
from reward_model.records import Conversation, as_prompt
from reward_model.scores import Scalarisation
from reward_model.template import ENCODER_TEMPLATE
from training.arguments import RewardTrainingArguments
from training.average import REFUSED, Options, average, main
from training.data import NoPairs, read_preferences
from training.pairwise import evaluate
from training.train import train

WORDS = ("red", "blue", "green", "small", "large", "old", "new")


def write_pairs(path: Path, n: int = 24) -> Path:
    rows = [
        {
            "prompt": f"Which {WORDS[i % 7]} number {i}?",
            "chosen": f"Gladly: the {WORDS[i % 5]} one, {i}.",
            "rejected": f"Go away {WORDS[i % 3]}!",
        }
        for i in range(n)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@dataclass(frozen=True)
class Recipe:
    """What goes into a checkpoint; each field is something that averages must agree on."""

    architecture: str = "bert"
    model: dict[str, Any] = field(default_factory=dict)
    template: str = ENCODER_TEMPLATE
    lowercase: bool = False
    max_length: int = 100
    scalarisation: Scalarisation = field(default_factory=Scalarisation)
    record: dict[str, Any] = field(default_factory=dict)
    noise: float = 0.01
    head_sign: float = 1.0


def make(directory: Path, seed: int, recipe: Recipe | None = None) -> Path:
    """A checkpoint as training would write it: one beginning for all, then a little noise of its own."""
    recipe = recipe or Recipe()
    tokenizer = tiny.tiny_tokenizer(tiny.kind_of(recipe.architecture), chat_template=recipe.template)
    if recipe.lowercase:
        tokenizer.backend_tokenizer.normalizer = Lowercase()
    labels = len(recipe.scalarisation.names)
    network = tiny.tiny_model(recipe.architecture, tokenizer, num_labels=labels, **recipe.model)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            sign = recipe.head_sign if name.startswith("classifier") else 1
            weight.add_(torch.randn_like(weight), alpha=recipe.noise).mul_(sign)
    model = RewardModel(network, choose_precision("cpu", "float32"), scalarisation=recipe.scalarisation)
    record = {"seed": seed, "head_initialisation": "sha256:h", "flags": {"model_name_or_path": "base"}}
    checkpoint.save(model, tokenizer, directory, max_length=recipe.max_length, training=record | recipe.record)
    return directory


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "held_out.jsonl")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    directory = tmp_path_factory.mktemp("seeds")
    return [str(make(directory / f"seed-{i}", i)) for i in range(3)]


def weights(directory: str | Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = load_file(Path(directory) / "model.safetensors")
    return loaded


def test_the_average_of_three_seeds_is_their_mean_in_any_order(tmp_path: Path, seeds: list[str], pairs: Path) -> None:
    one = average(seeds, tmp_path / "one", str(pairs))
    other = average(seeds[::-1], tmp_path / "other", str(pairs))
    parents = [weights(seed) for seed in seeds]
    mean = weights(tmp_path / "one")
    assert mean.keys() == parents[0].keys()
    for name, tensor in mean.items():
        stacked = torch.stack([parent[name] for parent in parents])
        assert tensor.equal(stacked.double().mean(0).float() if tensor.is_floating_point() else stacked[0])
    assert one.fingerprint == other.fingerprint
    assert one.training == other.training


def test_it_is_served_like_any_other_and_was_judged_on_the_pairs(tmp_path: Path, seeds: list[str], pairs: Path) -> None:
    manifest = average(seeds, tmp_path / "mean", str(pairs))
    loaded = checkpoint.load(tmp_path / "mean", dtype="float32")
    conversation = Conversation(as_prompt("Which one?"), "Gladly: the old one.")
    score = loaded.model.score([loaded.renderer.render(conversation)])[0].value
    assert score == pytest.approx(tiny.transformers_score(tmp_path / "mean", conversation), abs=1e-4)
    result = evaluate(loaded, read_preferences(str(pairs)).pairs)
    assert result.overall.accuracy == manifest.training["metrics"]["accuracy"]
    assert manifest.reward is not None
    assert result.reward.std == pytest.approx(manifest.reward.std, abs=1e-5)
    assert manifest.calibration.pairs == 24
    assert manifest.training["eval_pairs"] == 24


def test_each_parent_is_recorded_with_its_accuracy_on_the_same_pairs(
    tmp_path: Path, seeds: list[str], pairs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        record = average(seeds[:2], tmp_path / "mean", str(pairs), Options(weights=(1.0, 3.0))).training
    by_name = {parent["name"]: parent for parent in record["parents"]}
    preferences = read_preferences(str(pairs)).pairs
    for seed, (name, share) in enumerate(zip(seeds[:2], (0.25, 0.75), strict=True)):
        loaded = checkpoint.load(name, dtype="float32")
        expected = {"name": name, "seed": seed, "weight": share, "fingerprint": loaded.fingerprint}
        assert by_name[name].items() >= expected.items()
        assert by_name[name]["accuracy"] == evaluate(loaded, preferences).overall.accuracy
    assert record["head_initialisation"] == "sha256:h"
    assert record["bases"] == ["base"]
    for line in (*seeds[:2], "ensemble of the rewards", "average of the weights"):
        assert line in caplog.text


def test_members_may_differ_in_dropout_and_seed_and_averages_be_averaged(
    tmp_path: Path, seeds: list[str], pairs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dropping = Recipe(model={"hidden_dropout_prob": 0.3}, record={"flags": {"model_name_or_path": "other-base"}})
    make(tmp_path / "dropping", 9, dropping)
    average([seeds[0], str(tmp_path / "dropping")], tmp_path / "mean", str(pairs))
    assert "trained from base and other-base: averaging needs bases that share their pre-training" in caplog.text
    record = average([seeds[1], str(tmp_path / "mean")], tmp_path / "again", str(pairs)).training
    assert record["bases"] == ["base", "other-base"]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe("roberta"), "their architectures differ"),
        (Recipe(model={"num_hidden_layers": 1}), "configurations differ: num_hidden_layers"),
        (Recipe(max_length=90), r"their limits \(max_length\) differ: "),
        (Recipe(template=ENCODER_TEMPLATE + " "), "their chat templates differ"),
        (Recipe(lowercase=True), "their tokenizers differ"),
        (Recipe(scalarisation=Scalarisation(("helpful", "brief"), (1.0, 1.0))), "their attributes differ"),
        (Recipe(scalarisation=Scalarisation(weights=(2.0,))), r"their scalarisations \(--attribute_weights\) differ"),
        (Recipe(record={"head_initialisation": "sha256:g"}), r"their heads before training \(--head_seed\) differ"),
        (Recipe(record={"head_initialisation": None}), "does not say which head its training began with"),
    ],
    ids=lambda value: None if isinstance(value, Recipe) else value[:30],
)
def test_what_differs_in_more_than_its_training_is_refused(
    tmp_path: Path, seeds: list[str], pairs: Path, recipe: Recipe, message: str
) -> None:
    other = make(tmp_path / "other", 5, recipe)
    with pytest.raises(CheckpointRefused, match=message):
        average([seeds[0], str(other)], tmp_path / "mean", str(pairs))
    assert not (tmp_path / "mean").exists()


def test_the_same_checkpoint_twice_or_one_alone_is_no_average(tmp_path: Path, seeds: list[str], pairs: Path) -> None:
    copy = make(tmp_path / "copy", 0)
    for names in ([seeds[0], seeds[0]], [seeds[0], str(copy), seeds[1]]):
        with pytest.raises(CheckpointRefused, match="have the same weights: name each checkpoint once"):
            average(names, tmp_path / "mean", str(pairs))
    with pytest.raises(CheckpointRefused, match="two checkpoints or more"):
        average(seeds[:1], tmp_path / "mean", str(pairs))


def test_checkpoints_with_nothing_between_them_are_refused(tmp_path: Path, pairs: Path) -> None:
    for name, sign in (("plus", 1.0), ("minus", -1.0)):
        make(tmp_path / name, 0, Recipe(noise=0.0, head_sign=sign))
    with pytest.raises(CheckpointRefused, match="the average gives every response the same reward"):
        average([str(tmp_path / "plus"), str(tmp_path / "minus")], tmp_path / "mean", str(pairs))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["minus", "plus"]


def test_rated_responses_judge_checkpoints_with_attributes(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Which {i // 2}?", "response": f"{WORDS[i % 7]} {i}", "helpful": i % 5, "brief": i % 3}
        for i in range(20)
    ]
    (tmp_path / "rated.jsonl").write_text("nonsense\n" + "".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "alone.jsonl").write_text(json.dumps(rows[0]) + "\n")
    rated = Recipe(scalarisation=Scalarisation(("helpful", "brief"), (1.0, -0.5)))
    seeds = [str(make(tmp_path / f"seed-{i}", i, rated)) for i in range(2)]
    manifest = average(seeds, tmp_path / "mean", str(tmp_path / "rated.jsonl"))
    assert manifest.attributes == ("helpful", "brief")
    assert manifest.scalarisation == (1.0, -0.5)
    assert manifest.training["eval_pairs"] == manifest.calibration.pairs > 0
    assert manifest.reward is not None
    assert manifest.reward.n == 20
    assert manifest.training["eval_bad_rows"]["reasons"]["malformed"]["first_lines"] == [1]
    with pytest.raises(NoPairs, match=r"alone\.jsonl: no two responses to compare are left"):
        average(seeds, tmp_path / "other", str(tmp_path / "alone.jsonl"))
    assert not (tmp_path / "other").exists()


def test_pairs_that_a_member_has_seen_in_another_order_are_not_noticed_and_the_log_says_so(
    tmp_path: Path, seeds: list[str], pairs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    learned = make(
        tmp_path / "learned", 7, Recipe(record={"dataset_fingerprint": read_preferences(str(pairs)).fingerprint})
    )
    (tmp_path / "other.jsonl").write_text("".join(reversed(pairs.read_text().splitlines(keepends=True))))
    average([seeds[0], str(learned)], tmp_path / "mean", str(tmp_path / "other.jsonl"))
    assert "whether one has seen some of its pairs cannot be told from checkpoints" in caplog.text


def test_a_column_called_response_does_not_make_pairs_ratings(tmp_path: Path, seeds: list[str], pairs: Path) -> None:
    rows = [json.loads(line) | {"response": "of somebody else"} for line in pairs.read_text().splitlines()]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert average(seeds, tmp_path / "mean", str(tmp_path / "more.jsonl")).training["eval_pairs"] == len(rows)


def test_seeds_that_were_trained_here_can_be_averaged_and_other_heads_cannot(tmp_path: Path, pairs: Path) -> None:
    tiny.tiny_base(tmp_path / "base", "llama", num_labels=2)
    write_pairs(tmp_path / "train.jsonl", 30)
    for name, flags in {"a": {"seed": 1}, "b": {"seed": 2}, "c": {"seed": 3, "head_seed": 1}}.items():
        args = {"num_train_epochs": 1, "per_device_train_batch_size": 8, "eval_fraction": 0.0, "disable_tqdm": True}
        paths = {"model_name_or_path": "base", "dataset_name": "train.jsonl", "output_dir": name}
        train(RewardTrainingArguments(**{key: str(tmp_path / path) for key, path in paths.items()}, **args, **flags))
    record = average([str(tmp_path / "a"), str(tmp_path / "b")], tmp_path / "mean", str(pairs)).training
    assert {parent["seed"] for parent in record["parents"]} == {1, 2}
    with pytest.raises(CheckpointRefused, match="heads before training"):
        average([str(tmp_path / "a"), str(tmp_path / "c")], tmp_path / "other", str(pairs))


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["{a}", "{b}", "--weights", "1"], 2, "1 --weights for 2 checkpoints"),
        (["{a}", "{b}", "--weights", "1", "-1"], 2, "-1 is not positive"),
        (["{a}", "{b}", "--max_pairs", "0"], 2, "--max_pairs must be positive, not 0"),
        (["{a}", "/nowhere"], REFUSED, "/nowhere: /nowhere is not a checkpoint directory"),
        (["{a}", "{foreign}"], REFUSED, "has no reward_model.json"),
        (["{a}", "{learned}"], 1, "was trained on this very data set"),
        (["{a}", "{b}", "--dataset_name", "none.jsonl"], 1, "none.jsonl: there is no such file"),
        (["{a}", "{b}", "--dataset_name", "{one}"], 1, "no row can be used"),
        (["{a}", "{b}", "--output_dir", "{b}"], 1, "is one of the checkpoints to average"),
        (["{a}", "{b}"], 0, ""),
    ],
    ids=lambda value: "" if isinstance(value, list) else str(value)[:30],
)
def test_the_command_says_what_is_wrong_and_exits(
    flags: list[str],
    status: int,
    message: str,
    tmp_path: Path,
    seeds: list[str],
    pairs: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    known = {"a": seeds[0], "b": seeds[1], "foreign": str(tmp_path / "foreign"), "one": str(tmp_path / "one.jsonl")}
    (tmp_path / "one.jsonl").write_text('{"prompt": "p", "response": "r", "reward": 1}\n')
    tiny.tiny_base(tmp_path / "foreign", "bert")
    if "{learned}" in flags:
        fingerprint = read_preferences(str(pairs)).fingerprint
        learned = Recipe(record={"dataset_fingerprint": fingerprint})
        known["learned"] = str(make(tmp_path / "learned", 7, learned))
    argv = ["--dataset_name", str(pairs), "--output_dir", str(tmp_path / "mean"), "--model_name_or_path"]
    try:
        code = main([*argv, *(flag.format(**known) for flag in flags)])
    except SystemExit as ended:
        code = int(str(ended.code))
    assert code == status
    assert message in capsys.readouterr().err
    assert (tmp_path / "mean").exists() == (status == 0)


def test_a_parent_that_is_calibrated_by_length_is_averaged_without_that_and_it_is_said(
    tmp_path: Path, seeds: list[str], pairs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    curved = Path(shutil.copytree(seeds[0], tmp_path / "curved"))
    manifest = read_manifest(curved)
    assert manifest is not None
    write_manifest(replace(manifest, length_calibration=LengthCalibration((1.0, 9.0), (-5.0, 5.0))), curved)
    plain = average(seeds[:2], tmp_path / "plain", str(pairs))
    with caplog.at_level(logging.WARNING):
        other = average([str(curved), seeds[1]], tmp_path / "other", str(pairs))
    assert f"{curved} is calibrated by length, which the average is not" in caplog.text
    assert (other.fingerprint, other.reward) == (plain.fingerprint, plain.reward)
    plain_parents, other_parents = (sorted(p["accuracy"] for p in m.training["parents"]) for m in (plain, other))
    assert plain_parents == other_parents
