"""What a response owes to its length is taken off its reward, wherever that comes from, and only where it is known."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from reward_model.checkpoint import load
from reward_model.errors import CheckpointRefused, NotRenderable
from reward_model.length_calibration import LengthCalibration
from reward_model.manifest import read_manifest, write_manifest
from reward_model.records import Conversation, Text, TokenIds, as_prompt

CURVE = LengthCalibration((10.0, 20.0, 40.0), (-1.0, 0.0, 3.0))
#: Of no characters, of 15 and of 61.
RESPONSES = ("", "fifteen letters", "sixty-one letters " * 3 + "at last")


@pytest.fixture
def directory(checkpoint_of: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint_of("bert"), tmp_path / "bert"))


def add_curve(directory: Path, curve: LengthCalibration = CURVE) -> Path:
    manifest = read_manifest(directory)
    assert manifest is not None
    write_manifest(replace(manifest, length_calibration=curve), directory)
    return directory


def conversations() -> list[Conversation]:
    return [Conversation(as_prompt("Why?"), response) for response in RESPONSES]


@pytest.mark.parametrize(
    ("length", "bias"), [(0, -1.0), (10, -1.0), (15, -0.5), (20, 0.0), (30, 1.5), (40, 3.0), (41, 3.0), (10**9, 3.0)]
)
def test_it_is_linear_between_knots_and_flat_beyond(length: int, bias: float) -> None:
    assert CURVE.bias(length) == pytest.approx(bias)


def test_a_single_knot_is_the_same_for_all_lengths() -> None:
    assert {LengthCalibration((7.0,), (0.5,)).bias(length) for length in (0, 7, 100)} == {0.5}


def test_a_response_of_unknown_length_has_no_reward() -> None:
    with pytest.raises(NotRenderable, match="send `prompt` and `response`"):
        CURVE.bias(None)


@pytest.mark.parametrize(
    ("lengths", "biases"),
    [((), ()), ((1.0,), (1.0, 2.0)), ((2.0, 2.0), (0.0, 0.0)), ((2.0, 1.0), (0.0, 0.0)), ((1.0,), (math.nan,))],
)
def test_what_is_no_curve_is_an_error(lengths: tuple[float, ...], biases: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="not a curve"):
        LengthCalibration(lengths, biases)


def test_a_checkpoint_scores_with_it_but_its_golden_vectors_stay_raw(directory: Path) -> None:
    raw = load(directory, device="cpu", dtype="float32")
    calibrated = load(add_curve(directory), device="cpu", dtype="float32")
    before = [score.value for score in raw.model.score([raw.renderer.render(one) for one in conversations()])]
    rendered = [calibrated.renderer.render(one) for one in conversations()]
    after = [score.value for score in calibrated.model.score(rendered)]
    assert [one.response_length for one in rendered] == [len(response) for response in RESPONSES] == [0, 15, 61]
    assert after == pytest.approx([value - bias for value, bias in zip(before, (-1.0, -0.5, 3.0), strict=True)])
    assert calibrated.golden_max_error == raw.golden_max_error


def test_text_and_token_ids_have_no_reward_then(directory: Path) -> None:
    calibrated = load(add_curve(directory), device="cpu", dtype="float32")
    for record in (Text("Why? Because."), TokenIds((5, 6, 7))):
        with pytest.raises(NotRenderable, match="which `text` and `token_ids` do not tell"):
            calibrated.model.score([calibrated.renderer.render(record)])


def test_an_end_of_turn_string_of_its_own_is_no_part_of_a_response(checkpoint_of: Callable[[str], Path]) -> None:
    renderer = load(checkpoint_of("llama"), device="cpu", dtype="float32").renderer
    with_end, without = (
        renderer.render(Conversation(as_prompt("Hi"), text), truncate=True) for text in ("Hello</s>", "Hello")
    )
    assert with_end == without
    assert without.response_length == 5


def test_the_fingerprint_tells_curves_apart_and_the_format_is_one_that_others_refuse(directory: Path) -> None:
    plain = read_manifest(directory)
    assert plain is not None
    document = json.loads((directory / "reward_model.json").read_text())
    assert (document["format_version"], "length_calibration" in document) == (1, False)
    calibrated = read_manifest(add_curve(directory))
    assert calibrated == replace(plain, length_calibration=CURVE)
    assert json.loads((directory / "reward_model.json").read_text())["format_version"] == 2
    other = replace(plain, length_calibration=replace(CURVE, biases=(-1.0, 0.0, 3.5)))
    assert len({plain.fingerprint, calibrated.fingerprint, other.fingerprint}) == 3
    assert load(directory, device="cpu").fingerprint == calibrated.fingerprint


def test_a_curve_in_the_first_format_is_refused(directory: Path) -> None:
    path = add_curve(directory) / "reward_model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 1}))
    with pytest.raises(CheckpointRefused, match="has a length calibration, which format version 1 has not"):
        read_manifest(directory)


def test_a_unit_that_is_not_known_is_refused(directory: Path) -> None:
    path = add_curve(directory) / "reward_model.json"
    document = json.loads(path.read_text())
    document["length_calibration"]["unit"] = "tokens"
    path.write_text(json.dumps(document))
    with pytest.raises(CheckpointRefused, match="lengths are counted in 'tokens'"):
        read_manifest(directory)
