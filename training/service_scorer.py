"""A running service as the scorer of an evaluation: the rewards that its callers get, over HTTP.

A few pairs are asked for at once. One that the service refuses is left out and the others are asked for again, so that
there are as many requests more as there are such pairs; they are refused before anything is computed. Knows the client
and what its errors say about a pair, not how rewards come about.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from service.client import Answer, Client, Refused, RewardServiceError
from training.data import RowReport
from training.evaluation import Provenance
from training.pair_scorer import EvaluationFailed, ScoredPair
from training.pairs import NOT_RENDERABLE, TOO_LONG, BadRow, PreferencePair, Reason

#: Requests under way at once, and pairs in each: some 20,000 tokens in all, so that a GPU's next batch is not short,
#: while a service that computes no more than 330 a second still answers within RM_TIMEOUT_SECONDS.
IN_FLIGHT, PAIRS = 4, 8
#: Seconds to wait for a service that still loads its model, and for a few pairs however busy it is.
_READY, _PATIENCE = 300.0, 3600.0
#: Problems that are one pair's; all others of that kind are faults, of the service or of ours.
_REASONS: dict[str, Reason] = {
    "urn:reward-model:too-long": TOO_LONG,
    "urn:reward-model:too-large": TOO_LONG,
    "urn:reward-model:invalid-input": NOT_RENDERABLE,
    "urn:reward-model:no-tokens": NOT_RENDERABLE,
    "urn:reward-model:not-renderable": NOT_RENDERABLE,
    "urn:reward-model:special-token-in-content": NOT_RENDERABLE,
}


@contextmanager
def service_at(url: str, api_key_file: Path | None = None) -> Iterator["ServiceScorer"]:
    """The service at `url`, once it is ready.

    Raises:
        EvaluationFailed: it does not answer, or not as it should; or there is no such address or key.
        OSError: the key's file cannot be read.
    """
    try:
        key = _first_key(api_key_file) if api_key_file else None
        client = Client(url, api_key=key, timeout=_PATIENCE, in_flight=IN_FLIGHT)
    except ValueError as error:
        raise EvaluationFailed(str(error)) from error
    try:
        with client:
            yield ServiceScorer(client)
    except RewardServiceError as error:
        raise EvaluationFailed(str(error)) from error


class ServiceScorer:
    """A running service as a `PairScorer`.

    Args:
        client: of the service.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._model = client.wait_until_ready(_READY)

    def provenance(self, dataset_fingerprint: str) -> Provenance:
        """See `PairScorer`."""
        model, calibration = self._model, self._model["calibration"]
        calibrated = calibration is not None and calibration["calibrated"]
        return Provenance(
            model=model["name"],
            model_fingerprint=model["fingerprint"],
            dataset_fingerprint=dataset_fingerprint,
            max_length=model["max_length"],
            device=model["device"],
            dtype=model["dtype"],
            temperature=calibration["temperature"] if calibrated else 1.0,
            calibrated=calibrated,
            length_calibrated=model.get("length_calibration") is not None,
        )

    def score(
        self, pairs: Mapping[int, PreferencePair], not_scored: RowReport, done: Callable[[int], object]
    ) -> dict[int, ScoredPair]:
        """See `PairScorer`."""
        parts = [list(part) for _, part in groupby(pairs.values(), key=lambda pair: bool(pair.prompt))]
        parts = [part[start : start + PAIRS] for part in parts for start in range(0, len(part), PAIRS)]
        outcomes: list[ScoredPair | BadRow] = []
        with ThreadPoolExecutor(IN_FLIGHT) as threads:
            for part in threads.map(self._score, parts):
                outcomes += part
                done(len(part))
        for pair, outcome in zip(pairs.values(), outcomes, strict=True):
            if isinstance(outcome, BadRow):
                not_scored.add(pair.line, outcome)
        return {i: one for i, one in zip(pairs, outcomes, strict=True) if isinstance(one, ScoredPair)}

    def _score(self, pairs: list[PreferencePair]) -> list[ScoredPair | BadRow]:
        """What becomes of each of `pairs`, all of which have a prompt or none has."""
        if not pairs:
            return []
        try:
            answer, scores, truncated = self._compare(pairs) if pairs[0].prompt else self._score_alone(pairs)
        except Refused as refused:
            which, bad = _blamed(refused, pairs)
            others = self._score(pairs[:which] + pairs[which + 1 :])
            return [*others[:which], bad, *others[which:]]
        if answer["fingerprint"] != self._model["fingerprint"]:
            msg = f"the service has changed its model from {self._model['fingerprint']} to {answer['fingerprint']}"
            raise EvaluationFailed(msg)
        rewards = zip(pairs, scores[::2], scores[1::2], truncated, strict=True)
        return [ScoredPair(*one) for one in rewards]

    def _compare(self, pairs: Sequence[PreferencePair]) -> tuple[Answer, list[float], list[bool]]:
        """The answer, two scores for each pair, and whether its prompt was cut."""
        comparisons = [
            {"prompt": [asdict(message) for message in pair.prompt], "responses": [pair.chosen, pair.rejected]}
            for pair in pairs
        ]
        answer = self._client.compare(comparisons, truncate=True)
        results = answer["results"]
        return answer, [x for one in results for x in one["scores"]], [any(one["truncated"]) for one in results]

    def _score_alone(self, pairs: Sequence[PreferencePair]) -> tuple[Answer, list[float], list[bool]]:
        """The same for pairs without a prompt, which POST /compare does not take."""
        responses = [text for pair in pairs for text in (pair.chosen, pair.rejected)]
        inputs = [{"messages": [{"role": "assistant", "content": text}]} for text in responses]
        answer = self._client.score(inputs, truncate=True)
        return answer, answer["scores"], [False] * len(pairs)


def _blamed(refused: Refused, pairs: Sequence[PreferencePair]) -> tuple[int, BadRow]:
    """Which of `pairs` was refused, and why.

    Raises:
        EvaluationFailed: none in particular, or the fault is not the pair's.
    """
    if refused.index is None:
        raise EvaluationFailed(str(refused)) from refused
    which = refused.index if pairs[0].prompt else refused.index // 2
    if refused.type not in _REASONS:
        msg = f"the pair at line {pairs[which].line}: {refused}"
        raise EvaluationFailed(msg) from refused
    _, _, what = refused.detail.partition(": ")
    return which, BadRow(_REASONS[refused.type], what)


def _first_key(path: Path) -> str:
    """The first key of a file as the service's own: one a line, without those that start with #."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if (key := line.strip()) and not key.startswith("#"):
            return key
    msg = f"{path} holds no API key"
    raise ValueError(msg)
