"""What `training.calibrate` writes is what is served: the whole contract for a model that was found somewhere."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import tiny
from serving import serving

from reward_model import checkpoint
from reward_model.calibration import sigmoid
from service.scorer import ModelScorer, Scorer
from training.calibrate import Options, calibrate
from training.data import read_preferences
from training.evaluate import evaluate

pytestmark = pytest.mark.anyio

PROMPT, ANSWERS = "Which one of the 3?", ["the red one", "the old and the new and the large and the small one"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chance, path = random.Random(5), tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    answers = [" ".join(chance.choices(["red", "blue", "old", "new"], k=chance.randint(1, 12))) for _ in range(240)]
    rows = [
        {"prompt": f"Which one of the {i // 2}?", "chosen": f"{answers[i]} {i}", "rejected": f"{answers[i + 120]}!"}
        for i in range(120)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def foreign(directory: Path, architecture: str, template: str | None) -> Path:
    tokenizer = tiny.tiny_tokenizer("encoder" if architecture == "bert" else "chatml", chat_template=template)
    tiny.tiny_model(architecture, tokenizer).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def loader(directory: Path) -> Callable[[], Scorer]:
    return lambda: ModelScorer(checkpoint.load(directory, device="cpu", dtype="float32"))


async def post(client: httpx.AsyncClient, route: str, **body: object) -> dict[str, object]:
    response = await client.post(route, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, object] = response.json()
    return answer


@pytest.mark.parametrize(("architecture", "template"), [("bert", None), ("llama", tiny.CHATML)])
@pytest.mark.parametrize("lengths", [False, True])
async def test_an_adopted_model_is_served_with_the_whole_contract(
    architecture: str, template: str | None, lengths: bool, tmp_path: Path, pairs: Path
) -> None:
    directory = foreign(tmp_path / architecture, architecture, template)
    manifest = calibrate(str(directory), str(pairs), Options(device="cpu", dtype="float32", length_calibration=lengths))
    assert manifest.reward is not None
    inputs = [{"prompt": PROMPT, "response": answer} for answer in ANSWERS]
    async with serving(loader(directory)) as (client, _):
        model = (await client.get("/model")).json()
        raw = await post(client, "/score", inputs=inputs)
        normalised = await post(client, "/score", inputs=inputs, normalize=True)
        compared = await post(client, "/compare", comparisons=[{"prompt": PROMPT, "responses": ANSWERS}])
    assert model["golden_max_error"] < 1e-4
    assert model["rendering"] == ("pair" if template is None else "chat_template")
    assert (model["length_calibration"] is not None) == lengths
    assert model["fingerprint"] == manifest.fingerprint
    (result,) = compared["results"]
    assert (compared["calibrated"], compared["temperature"]) == (True, manifest.calibration.temperature)
    assert result["scores"] == pytest.approx(raw["scores"], abs=1e-6)
    assert result["probability"] == pytest.approx(sigmoid(result["margin"] / manifest.calibration.temperature))
    unit = [(score - manifest.reward.mean) / manifest.reward.std for score in raw["scores"]]
    assert normalised["scores"] == pytest.approx(unit)


async def test_with_a_length_calibration_evaluation_and_service_give_one_number(
    checkpoint_of: Callable[[str], Path], tmp_path: Path, pairs: Path
) -> None:
    copy, source = tmp_path / "copy", checkpoint_of("llama")
    calibrate(str(source), str(pairs), Options(output_dir=copy, device="cpu", dtype="float32", length_calibration=True))
    read = read_preferences(str(pairs)).pairs
    evaluated = evaluate(checkpoint.load(copy, device="cpu", dtype="float32"), read)
    sides = [(one.prompt[0].content, one.chosen, one.rejected) for one in read]
    comparisons = [{"prompt": prompt, "responses": [chosen, rejected]} for prompt, chosen, rejected in sides]
    async with serving(loader(copy)) as (client, _):
        answer = await post(client, "/compare", comparisons=comparisons)
    async with serving(loader(source)) as (client, _):
        before = await post(client, "/compare", comparisons=comparisons)
    scores = [result["scores"] for result in answer["results"]]
    assert sum(map(sum, scores)) / 240 == pytest.approx(evaluated.reward.mean, abs=1e-5)
    assert sum(chosen > rejected for chosen, rejected in scores) / 120 == evaluated.overall.accuracy
    curve = checkpoint.load(copy, device="cpu").model.length_calibration
    assert curve is not None
    for row, raw, texts in zip(scores, [one["scores"] for one in before["results"]], sides, strict=True):
        expected = [score - curve.bias(len(text)) for score, text in zip(raw, texts[1:], strict=True)]
        assert row == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("form", [{"text": "Which? This."}, {"token_ids": [5, 6, 7]}])
@pytest.mark.parametrize("route", ["/score", "/render"])
async def test_inputs_that_do_not_tell_the_length_of_a_response_are_refused_then(
    form: dict[str, object], route: str, checkpoint_of: Callable[[str], Path], tmp_path: Path, pairs: Path
) -> None:
    options = Options(output_dir=tmp_path / "copy", device="cpu", dtype="float32", length_calibration=True)
    calibrate(str(checkpoint_of("bert")), str(pairs), options)
    async with serving(loader(tmp_path / "copy")) as (client, _):
        response = await client.post(route, json={"inputs": [{"prompt": "a", "response": "b"}, form]})
    problem = response.json()
    assert (response.status_code, problem["index"]) == (422, 1)
    assert "send `prompt` and `response`, or `messages`" in problem["detail"]
