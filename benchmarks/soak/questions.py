"""Random requests, and whether an answer is theirs: worked out here, input by input, from the stub's definition.

Knows the native wire contract; neither sockets nor batches.
"""

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.soak.connections import Answer
from benchmarks.soak.plants import Fault
from reward_model.records import Conversation, Message, Record, Text, TokenIds, as_conversation, as_prompt
from service.stub import StubScorer

#: Of 100 requests.
FAULTY, COMPARISONS, LISTS = 1, 20, 25
#: The status of each fault, and the type of the problem where it is one.
OUTCOMES = {
    Fault.OUT_OF_MEMORY: (500, "urn:reward-model:cannot-compute"),
    Fault.EXCEPTION: (500, "urn:reward-model:cannot-compute"),
    Fault.NAN: (500, "urn:reward-model:non-finite-score"),
    Fault.CROWDED: (200, None),
    Fault.SLOW: (200, None),
}
_WORDS = ("the", "of", "and", "to", "a", "in", "is", "you", "that", "it", "for", "was")
_STUB = StubScorer()


@dataclass(frozen=True, slots=True)
class Question:
    """A request and what is known about its answer.

    Attributes:
        groups: records that are ranked against each other; of `/score`, one group.
        fault: what its last record asks for.
    """

    path: str
    body: bytes
    groups: Sequence[Sequence[Record]]
    fault: Fault | None

    def status(self) -> int:
        """What it must be answered with."""
        return 200 if self.fault is None else OUTCOMES[self.fault][0]

    def complaint(self, answer: Answer) -> str | None:
        """What is wrong with `answer`, None if nothing is."""
        if answer.status != self.status():
            return f"{self.fault or 'no fault'}: {answer.status} instead of {self.status()}: {answer.body[:200]!r}"
        said = json.loads(answer.body)
        if answer.status != 200:
            return self._problem(said)
        if self.path == "/score":
            return _wrong_scores(said, self.groups[0])
        wrong = (_wrong_ranking(one, group) for one, group in zip(said["results"], self.groups, strict=True))
        return next(filter(None, wrong), None)

    def _problem(self, said: dict[str, Any]) -> str | None:
        assert self.fault is not None
        kind = OUTCOMES[self.fault][1]
        last = len(self.groups[-1]) - 1
        place = (last, None) if self.path == "/score" else (len(self.groups) - 1, last)
        if (said["type"], said["index"], said.get("response")) != (kind, *place):
            return f"another problem than {kind} at {place}: {said}"
        return None


def ask(rng: random.Random) -> Question:
    """Any request."""
    fault = rng.choice(list(Fault)) if rng.randrange(100) < FAULTY else None
    if rng.randrange(100) < COMPARISONS:
        return _comparison(rng, fault)
    number = rng.randint(2, 12) if rng.randrange(100) < LISTS else 1
    inputs = [_input(rng) for _ in range(number - 1)]
    inputs.append(_input(rng) if fault is None else _sample(f"{_words(rng)} {fault} {_words(rng)}", _words(rng)))
    body = json.dumps({"inputs": [wire for wire, _ in inputs]}).encode()
    return Question("/score", body, [[record for _, record in inputs]], fault)


def sample(rng: random.Random, words: int) -> bytes:
    """The body of a `/score` request with one input: two texts of 1 to `words` words that any tokenizer knows."""
    prompt, response = (" ".join(rng.choices(_WORDS, k=rng.randint(1, words))) for _ in range(2))
    return json.dumps({"inputs": [{"prompt": prompt, "response": response}]}).encode()


def _comparison(rng: random.Random, fault: Fault | None) -> Question:
    prompts = [_words(rng) for _ in range(rng.randint(1, 3))]
    responses = [[_words(rng) for _ in range(rng.randint(2, 5))] for _ in prompts]
    if fault is not None:
        responses[-1][-1] = f"{_words(rng)} {fault}"
    wire = [{"prompt": prompt, "responses": texts} for prompt, texts in zip(prompts, responses, strict=True)]
    groups = [
        [Conversation(as_prompt(prompt), text) for text in texts]
        for prompt, texts in zip(prompts, responses, strict=True)
    ]
    return Question("/compare", json.dumps({"comparisons": wire}).encode(), groups, fault)


def _input(rng: random.Random) -> tuple[dict[str, Any], Record]:
    form = rng.randrange(4)
    if form == 0:
        ids = [rng.randrange(2**31) for _ in range(rng.randint(1, 60))]
        return {"token_ids": ids}, TokenIds(tuple(ids))
    if form == 1:
        text = _words(rng)
        return {"text": text}, Text(text)
    if form == 2:
        turns = [("system", _words(rng)), ("user", _words(rng)), ("assistant", _words(rng))]
        wire = [{"role": role, "content": content} for role, content in turns]
        messages = (Message("system", turns[0][1]), Message("user", turns[1][1]), Message("assistant", turns[2][1]))
        return {"messages": wire}, as_conversation(messages)
    return _sample(_words(rng), _words(rng))


def _sample(prompt: str, response: str) -> tuple[dict[str, Any], Record]:
    return {"prompt": prompt, "response": response}, Conversation(as_prompt(prompt), response)


def _words(rng: random.Random) -> str:
    return " ".join(f"{rng.getrandbits(24):x}" for _ in range(rng.randint(1, 20)))


def _right(records: Sequence[Record]) -> tuple[list[float], list[int]]:
    rendered = [_STUB.render(record) for record in records]
    return [_STUB.score(one).value for one in rendered], [len(one.token_ids) for one in rendered]


def _wrong_scores(said: dict[str, Any], records: Sequence[Record]) -> str | None:
    if (said["scores"], said["num_tokens"]) != _right(records):
        return f"scores of something else: {said['scores']} instead of {_right(records)[0]}"
    return None


def _wrong_ranking(said: dict[str, Any], records: Sequence[Record]) -> str | None:
    if wrong := _wrong_scores(said, records):
        return wrong
    scores = said["scores"]
    ranking = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    margin = scores[ranking[0]] - scores[ranking[1]]
    assert _STUB.info.calibration is not None
    probability = 1 / (1 + math.exp(-margin / _STUB.info.calibration.temperature))
    if (said["ranking"], said["best"], said["margin"]) != (ranking, ranking[0], margin):
        return f"another ranking than {ranking}, margin {margin}: {said}"
    if not math.isclose(said["probability"], probability, rel_tol=1e-9):
        return f"another probability than {probability}: {said}"
    return None
