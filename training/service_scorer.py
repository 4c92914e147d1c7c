"""A running service as the scorer of an evaluation: the rewards that its callers get, over HTTP.

Each pair is a request of its own, many under way at once: the service batches them itself, and a pair that it refuses
takes no other with it. Knows the client and what its errors say about a pair, not how rewards come about.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from service.client import Answer, Client, Refused, RewardServiceError
from training.data import RowReport
from training.evaluation import Provenance
from training.pair_scorer import EvaluationFailed, ScoredPair
from training.pairs import NOT_RENDERABLE, TOO_LONG, BadRow, PreferencePair, Reason

#: Pairs under way at once: some 20,000 tokens, so that a GPU's next batch is never short, while a service that computes
#: no more than 330 a second still answers each within RM_TIMEOUT_SECONDS.
IN_FLIGHT = 32
#: Seconds to wait for a service that still loads its model, and for one pair however busy it is.
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
        )

    def score(
        self, pairs: Mapping[int, PreferencePair], not_scored: RowReport, done: Callable[[int], object]
    ) -> dict[int, ScoredPair]:
        """See `PairScorer`."""
        scored: dict[int, ScoredPair] = {}
        with ThreadPoolExecutor(IN_FLIGHT) as threads:
            outcomes = threads.map(self._score, pairs.values())
            for (i, pair), outcome in zip(pairs.items(), outcomes, strict=True):
                if isinstance(outcome, BadRow):
                    not_scored.add(pair.line, outcome)
                else:
                    scored[i] = outcome
                done(1)
        return scored

    def _score(self, pair: PreferencePair) -> ScoredPair | BadRow:
        try:
            answer, result = self._compare(pair)
        except Refused as refused:
            if refused.index is None or refused.type not in _REASONS:
                msg = f"the pair at line {pair.line}: {refused}"
                raise EvaluationFailed(msg) from refused
            _, _, what = refused.detail.partition(": ")
            return BadRow(_REASONS[refused.type], what)
        if answer["fingerprint"] != self._model["fingerprint"]:
            msg = f"the service has changed its model from {self._model['fingerprint']} to {answer['fingerprint']}"
            raise EvaluationFailed(msg)
        chosen, rejected = result["scores"]
        return ScoredPair(pair, chosen, rejected, any(result["truncated"]))

    def _compare(self, pair: PreferencePair) -> tuple[Answer, Answer]:
        """The answer, and what of it is about the two responses."""
        turns = [{"role": message.role, "content": message.content} for message in pair.prompt]
        responses = [pair.chosen, pair.rejected]
        if turns:
            answer = self._client.compare([{"prompt": turns, "responses": responses}], truncate=True)
            return answer, answer["results"][0]
        # Without a prompt there is nothing to compare to, and nothing to cut.
        messages = [[{"role": "assistant", "content": response}] for response in responses]
        answer = self._client.score([{"messages": one} for one in messages])
        return answer, answer


def _first_key(path: Path) -> str:
    """The first key of a file as the service's own: one a line, without those that start with #."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if (key := line.strip()) and not key.startswith("#"):
            return key
    msg = f"{path} holds no API key"
    raise ValueError(msg)
