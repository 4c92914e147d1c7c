"""From a checkpoint to an answer over HTTP: the served number is transformers' number, for every architecture."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import tiny
from serving import serving
from test_one_number import CONVERSATIONS

from reward_model import checkpoint
from reward_model.records import Conversation
from service.scorer import ModelScorer, Scorer

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def wire(conversation: Conversation) -> dict[str, object]:
    return {"prompt": [asdict(message) for message in conversation.prompt], "response": conversation.response}


def loader(directory: Path) -> Callable[[], Scorer]:
    return lambda: ModelScorer(checkpoint.load(directory, device="cpu", dtype="float32"))


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
async def test_the_served_score_is_that_of_transformers_alone(
    architecture: str, checkpoint_of: Callable[[str], Path]
) -> None:
    directory = checkpoint_of(architecture)
    async with serving(loader(directory)) as (client, _):
        response = await client.post("/score", json={"inputs": [wire(one) for one in CONVERSATIONS]})
    expected = [tiny.transformers_score(directory, conversation) for conversation in CONVERSATIONS]
    assert response.json()["scores"] == pytest.approx(expected, abs=1e-4)


async def test_every_form_of_one_conversation_gets_one_score(checkpoint_of: Callable[[str], Path]) -> None:
    prompt, response = "Explain gravity.", "Gravity pulls masses together."
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    async with serving(loader(checkpoint_of("llama"))) as (client, _):
        sample = {"prompt": prompt, "response": response}
        rendered = (await client.post("/render", json={"inputs": [sample]})).json()["results"][0]
        forms = [sample, {"messages": turns}, {"text": rendered["text"]}, {"token_ids": rendered["token_ids"]}]
        answer = (await client.post("/score", json={"inputs": forms})).json()
        compared = {"comparisons": [{"prompt": prompt, "responses": [response, "no", response]}]}
        (result,) = (await client.post("/compare", json=compared)).json()["results"]
    assert len(set(answer["scores"])) == 1
    length = len(rendered["token_ids"])
    assert answer["usage"] == {"input_tokens": 4 * length, "computed_tokens": length}
    assert result["scores"][0] == result["scores"][2] == pytest.approx(answer["scores"][0], abs=1e-6)
    assert result["ranking"].index(0) + 1 == result["ranking"].index(2), "ties stay in input order"
