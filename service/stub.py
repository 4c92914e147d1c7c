"""A scorer without a model, for tests of whatever talks to this service.

Deterministic, instant unless told otherwise, and able to fail on demand. Every text has a score of its own, by
which an answer that ended up with the wrong caller shows. Needs no model library.
"""

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache

from reward_model import __version__
from reward_model.calibration import Calibration, RewardStatistics
from reward_model.errors import BadTokenId, NoTokens, TooLong
from reward_model.meter import Meter, RepeatMeter, SharingMeter
from reward_model.records import Conversation, Message, Prompt, Record, Text
from reward_model.rendering import Rendered
from reward_model.scores import Score
from reward_model.truncation import cut_prompt
from service.scorer import ModelInfo

#: Ids from here on are hashes of words, so that two words hardly ever share one.
VOCABULARY = 2**31
BOS, END = "<|start|>", "<|end|>"
_IDS = {BOS: 0, END: 1}
_ROLES = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
_IDS |= {special: 2 + i for i, special in enumerate(_ROLES.values())}
_SPECIAL = re.compile("|".join(re.escape(special) for special in _IDS))
_TOKEN = re.compile(rf"{_SPECIAL.pattern}|\s?(?:(?!{_SPECIAL.pattern})\S)+|\s")
#: Scores are uniform between minus and plus this.
_RANGE = 4.0

#: Gets a batch and its right scores, returns what the model shall say instead; may sleep, and may raise.
Fault = Callable[[Sequence[Rendered], list[Score]], list[Score]]


class StubScorer:
    """A `service.scorer.Scorer` whose scores are hashes of the tokens.

    Args:
        max_length: tokens of one input.
        tokens_per_second, inputs_per_second: how much it computes at most, by sleeping; None: at once.
        attributes: names of several labels; the reward is their mean.
        fault: what goes wrong.
        asynchronous: batches are computed one after the other in a thread of their own, as a GPU does it.
        shares_prefixes: inputs of a batch that start alike cost only what they add, as in a causal model.
        batch_tokens: see `Scorer`.
    """

    def __init__(
        self,
        *,
        max_length: int = 512,
        tokens_per_second: float | None = None,
        inputs_per_second: float | None = None,
        attributes: tuple[str, ...] = (),
        fault: Fault | None = None,
        asynchronous: bool = False,
        shares_prefixes: bool = False,
        batch_tokens: int = 8192,
    ) -> None:
        self._seconds_per_token = 1 / tokens_per_second if tokens_per_second else 0.0
        self._seconds_per_input = 1 / inputs_per_second if inputs_per_second else 0.0
        self._fault = fault
        self._device = ThreadPoolExecutor(1, "stub-device") if asynchronous else None
        self._shares_prefixes = shares_prefixes
        self._batch_tokens = batch_tokens
        self._info = _describe(max_length, attributes)

    @property
    def info(self) -> ModelInfo:
        """See `Scorer`."""
        return self._info

    def render(self, record: Record, *, truncate: bool = False) -> Rendered:
        """See `Scorer`."""
        if isinstance(record, Conversation):
            return self._render_all(record.prompt, [record.response], truncate=truncate, finished=record.finished)[0]
        if isinstance(record, Text):
            text = record.text if record.text.startswith(BOS) else BOS + record.text
            return self._fit_ids(tokenize(text), text, truncate=truncate)
        # If any is outside, one of these two is.
        for token_id in (min(record.ids, default=0), max(record.ids, default=0)):
            if not 0 <= token_id < VOCABULARY:
                msg = f"token id {token_id} is outside the vocabulary of {VOCABULARY} ids"
                raise BadTokenId(msg)
        return self._fit_ids(list(record.ids), None, truncate=truncate)

    def render_group(self, prompt: Prompt, responses: Sequence[str], *, truncate: bool = False) -> list[Rendered]:
        """See `Scorer`."""
        return self._render_all(prompt, responses, truncate=truncate, finished=True)

    @property
    def batch_tokens(self) -> int:
        """See `Scorer`."""
        return self._batch_tokens

    def meter(self) -> Meter:
        """See `Scorer`."""
        return SharingMeter() if self._shares_prefixes else RepeatMeter()

    def launch(self, batch: Sequence[Rendered]) -> "Computed":
        """See `Scorer`."""
        if self._device is not None:
            return Computed(self._device.submit(self._compute, batch))
        computed: Future[list[Score]] = Future()
        computed.set_result(self._compute(batch))
        return Computed(computed)

    def run(self, batch: Sequence[Rendered]) -> list[Score]:
        """See `Scorer`."""
        return self.launch(batch).result()

    def _compute(self, batch: Sequence[Rendered]) -> list[Score]:
        meter = self.meter()
        added = [meter.add(one) for one in batch]
        seconds = max(self._seconds_per_token * sum(added), self._seconds_per_input * len(batch))
        if seconds:
            time.sleep(seconds)
        reused = [len(one.token_ids) - tokens for one, tokens in zip(batch, added, strict=True)]
        scores = [replace(self.score(one), reused_tokens=tokens) for one, tokens in zip(batch, reused, strict=True)]
        return scores if self._fault is None else self._fault(batch, scores)

    def padding(self, batch: Sequence[Rendered]) -> int:  # noqa: ARG002
        """None at all."""
        return 0

    def score(self, rendered: Rendered) -> Score:
        """The right score of `rendered` alone, whatever goes wrong in a batch."""
        names = self._info.attributes
        if not names:
            return Score(_hashed(rendered.token_ids, ""))
        values = {name: _hashed(rendered.token_ids, name) for name in names}
        return Score(sum(values.values()) / len(values), values)

    def _render_all(
        self, prompt: Prompt, responses: Sequence[str], *, truncate: bool, finished: bool
    ) -> list[Rendered]:
        rendered = [_converse(prompt, response, finished=finished) for response in responses]
        longest = max(range(len(rendered)), key=lambda i: len(rendered[i].token_ids))
        num_tokens, limit = len(rendered[longest].token_ids), self._info.max_length
        if num_tokens <= limit:
            return rendered

        def measure(shorter: Prompt) -> int:
            return len(_converse(shorter, responses[longest], finished=finished).token_ids)

        if not truncate:
            raise _too_long(num_tokens, limit, longest)
        fitting = cut_prompt(prompt, limit, measure, _token_starts)
        if (left := measure(fitting)) > limit:
            raise _too_long(left, limit, longest)
        return [_converse(fitting, response, finished=finished, truncated=True) for response in responses]

    def _fit_ids(self, ids: list[int], text: str | None, *, truncate: bool) -> Rendered:
        if not ids:
            msg = "the input has no tokens: there is nothing to score"
            raise NoTokens(msg)
        limit = self._info.max_length
        if len(ids) <= limit:
            return Rendered(text, ids)
        if not truncate:
            raise _too_long(len(ids), limit, None)
        lead = ids[:1] if ids[0] == _IDS[BOS] else []
        kept = lead + ids[len(ids) - limit + len(lead) :]
        return Rendered(None if text is None else _tail(text, kept), kept, truncated=True)


class Computed:
    """A pending batch, for a device that keeps as many as it is given."""

    def __init__(self, scores: Future[list[Score]]) -> None:
        self.scores = scores

    def wait_for_room(self) -> None:
        """See `service.scorer.Pending`."""

    def done(self) -> bool:
        """See `service.scorer.Pending`."""
        return self.scores.done()

    def result(self) -> list[Score]:
        """See `service.scorer.Pending`."""
        return self.scores.result()


def tokenize(text: str) -> list[int]:
    """Words with the space before them, single spaces, and special tokens, as ids."""
    return [_id(match.group()) for match in _TOKEN.finditer(text)]


@lru_cache(maxsize=2**16)
def _id(token: str) -> int:
    if token in _IDS:
        return _IDS[token]
    digest = hashlib.blake2b(token.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return len(_IDS) + int.from_bytes(digest, "big") % (VOCABULARY - len(_IDS))


def _hashed(token_ids: Sequence[int], salt: str) -> float:
    digest = hashlib.blake2b(repr((salt, list(token_ids))).encode(), digest_size=8).digest()
    return _RANGE * (2 * int.from_bytes(digest, "big") / 2**64 - 1)


def _converse(prompt: Prompt, response: str, *, finished: bool, truncated: bool = False) -> Rendered:
    response = response.removesuffix(END)
    turns = [*prompt, Message("assistant", response)]
    text = BOS + "".join(f"{_ROLES[turn.role]}{turn.content}{END}" for turn in turns)
    text = text if finished else text.removesuffix(END)
    special = sum(len(_SPECIAL.findall(turn.content)) for turn in turns)
    return Rendered(text, tokenize(text), truncated=truncated, special_in_content=special)


def _token_starts(content: str) -> list[int]:
    return [match.start() for match in _TOKEN.finditer(content)]


def _tail(text: str, kept: list[int]) -> str:
    """The text of the `kept` ids: perhaps the leading token, then the end of `text`."""
    starts = _token_starts(text)
    lead = BOS if kept[0] == _IDS[BOS] else ""
    dropped = len(starts) - len(kept) + len(tokenize(lead))
    return lead + text[starts[dropped] :] if dropped < len(starts) else lead


def _too_long(num_tokens: int, limit: int, response: int | None) -> TooLong:
    msg = f"{num_tokens} tokens, the limit is {limit}"
    return TooLong(msg, num_tokens=num_tokens, limit=limit, response=response)


def _describe(max_length: int, attributes: tuple[str, ...]) -> ModelInfo:
    identity = repr(("stub", __version__, max_length, attributes))
    deciles = tuple(_RANGE * (i / 5 - 1) for i in range(1, 10))
    return ModelInfo(
        name="stub",
        fingerprint="sha256:" + hashlib.sha256(identity.encode()).hexdigest(),
        kind="stub",
        architecture="StubScorer",
        attention="none",
        attention_reason="there is no model",
        device="cpu",
        dtype="float64",
        dtype_reason="scores are hashes",
        max_length=max_length,
        rendering="chat_template",
        pooling="last",
        template_sha256=None,
        calibration=Calibration(temperature=1.5, calibrated=True, reason=None, pairs=1000),
        reward=RewardStatistics(mean=0.0, std=2 * _RANGE / 12**0.5, deciles=deciles, n=1000),
        attributes=attributes,
        golden_max_error=0.0,
        versions={"reward_model": __version__},
    )
