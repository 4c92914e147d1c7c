"""Every metric: its name, labels and buckets stand here and nowhere else.

Others say what happened (`observe_...`) and know no metric. Knows neither HTTP nor models; the registry is
given.
"""

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from reward_model.calibration import RewardStatistics
from reward_model.rendering import Rendered
from service.drift import ScoreDrift
from service.errors import problem_of, rejection_types, status_of
from service.scorer import ModelInfo

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
TOKENS = tuple(float(2**power) for power in range(4, 18))
SEQUENCES = tuple(float(2**power) for power in range(13))
#: In units of the checkpoint's reward standard deviation.
SCORES = (-6.0, -4.0, -3.0, -2.5, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0)
MARGINS = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)

STAGES = ("tokenize", "queue", "forward")
TOKEN_KINDS = ("input", "computed", "padding")
FAILURES = ("non_finite", "oom", "fault", "deadline")


class Metrics:
    """What operators see. Safe to use from any thread.

    Args:
        registry: where the metrics are exported from; no other metric of the same name may be in it.

    Attributes:
        ready: 1 from the moment requests are let in until the service is told to end.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        # The library's switch is global; with it, each counter and histogram would export a second series.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry
        self._declare_requests()
        self._declare_batches()
        self._declare_outcomes()
        self._start_at_zero()
        self._reward: _RewardMetrics | None = None

    def _declare_requests(self) -> None:
        self._request = Histogram(
            "reward_request_duration_seconds",
            "From the first byte of a request to the last of its answer.",
            ["route", "status"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._stage = Histogram(
            "reward_stage_duration_seconds",
            "What the time of a scored request went into.",
            ["stage"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._rejected = Counter(
            "reward_rejected",
            "Requests turned away before anything was computed, by type of problem.",
            ["reason"],
            registry=self.registry,
        )
        self.ready = Gauge("reward_ready", "1 while requests should be sent here.", registry=self.registry)

    def _declare_batches(self) -> None:
        registry = self.registry
        self._inputs = Counter("reward_inputs", "Inputs admitted to the queue.", registry=registry)
        self._tokens = Counter(
            "reward_tokens", "Tokens of admitted inputs, and of batches.", ["kind"], registry=registry
        )
        self._batch_tokens = Histogram("reward_batch_tokens", "Tokens of a batch.", buckets=TOKENS, registry=registry)
        self._batch_sequences = Histogram(
            "reward_batch_sequences", "Inputs of a batch.", buckets=SEQUENCES, registry=registry
        )
        self._batch_budget = Gauge(
            "reward_batch_budget_tokens",
            "Tokens that a batch may have: less than set for a while after memory ran out.",
            registry=registry,
        )
        self._queue_sequences = Gauge("reward_queue_sequences", "Inputs that wait.", registry=registry)
        self._queue_tokens = Gauge("reward_queue_tokens", "Tokens that wait.", registry=registry)

    def _declare_outcomes(self) -> None:
        registry = self.registry
        self._failures = Counter(
            "reward_failures",
            "Inputs without a score: not finite, or not to be computed even alone (oom, fault)."
            " Requests whose deadline passed.",
            ["reason"],
            registry=registry,
        )
        self._cancelled = Counter(
            "reward_cancelled", "Requests given up by the caller while queued or computed.", registry=registry
        )
        self._truncated = Counter("reward_truncated", "Inputs that were cut to fit.", registry=registry)
        self._special = Counter(
            "reward_special_in_content",
            "Occurrences of a special token's string inside messages.",
            registry=registry,
        )

    def _start_at_zero(self) -> None:
        """A series that only appears with its first event hides that event from `rate()`.

        The series of every request are kept, as finding one takes longer than counting.
        """
        self._stages = {stage: self._stage.labels(stage) for stage in STAGES}
        self._tokens_of = {kind: self._tokens.labels(kind) for kind in TOKEN_KINDS}
        self._requests: dict[tuple[str, int], Histogram] = {}
        for failure in FAILURES:
            self._failures.labels(failure)
        for name in rejection_types():
            self._rejected.labels(_label(name))

    def attach_model(self, info: ModelInfo) -> None:
        """Exports what is served and, where its reward distribution is known, how scores compare with it."""
        names = ("model", "fingerprint", "device", "dtype")
        model = Gauge("reward_model_info", "The model that is served.", names, registry=self.registry)
        model.labels(info.name, info.fingerprint, info.device, info.dtype).set(1)
        if info.reward is not None and info.reward.std > 0:
            self._reward = _RewardMetrics(self.registry, info.reward)

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered. `route` is a route's template, never a path that was sent."""
        series = self._requests.get((route, status))
        if series is None:
            series = self._requests[route, status] = self._request.labels(route, str(status))
        series.observe(seconds)

    def observe_rejected(self, error: Exception) -> None:
        """A request was answered with `error`; counted where that turned it away before it was computed."""
        if status_of(error) not in {500, 504}:
            self._rejected.labels(_label(problem_of(error).type)).inc()

    def observe_rendered(self, rendered: Sequence[Rendered], seconds: float) -> None:
        """Inputs of a request were tokenised."""
        self._stages["tokenize"].observe(seconds)
        self._truncated.inc(sum(one.truncated for one in rendered))
        self._special.inc(sum(one.special_in_content for one in rendered))

    def observe_admitted(self, inputs: int, tokens: int) -> None:
        """A request was let into the queue."""
        self._inputs.inc(inputs)
        self._tokens_of["input"].inc(tokens)

    def observe_queue(self, sequences: int, tokens: int) -> None:
        """The queue changed: this much waits now."""
        self._queue_sequences.set(sequences)
        self._queue_tokens.set(tokens)

    def observe_batch_budget(self, tokens: int) -> None:
        """A batch may have so many tokens from now on."""
        self._batch_budget.set(tokens)

    def observe_batch(self, sequences: int, tokens: int, padding: int = 0) -> None:
        """The model ran a batch of `tokens` real tokens, and `padding` that are not."""
        self._batch_sequences.observe(sequences)
        self._batch_tokens.observe(tokens)
        self._tokens_of["computed"].inc(tokens)
        self._tokens_of["padding"].inc(padding)

    def observe_scored(self, scores: Sequence[float], queue_seconds: float, forward_seconds: float) -> None:
        """A request got its scores: raw rewards, all finite."""
        self._stages["queue"].observe(queue_seconds)
        self._stages["forward"].observe(forward_seconds)
        if self._reward is not None:
            self._reward.observe_scores(scores)

    def observe_margins(self, margins: Iterable[float]) -> None:
        """Comparisons were answered: best raw reward minus runner-up's, one for each."""
        if self._reward is not None:
            self._reward.observe_margins(margins)

    def observe_failure(self, reason: str, count: int = 1) -> None:
        """`count` inputs (or, for a deadline, requests) failed for one of FAILURES."""
        assert reason in FAILURES, reason
        self._failures.labels(reason).inc(count)

    def observe_cancelled(self) -> None:
        """A request was given up by its caller."""
        self._cancelled.inc()


class _RewardMetrics:
    """Scores in units of the checkpoint's reference, comparable between models."""

    def __init__(self, registry: CollectorRegistry, reference: RewardStatistics) -> None:
        self._mean, self._std = reference.mean, reference.std
        self._drift = ScoreDrift(reference.deciles)
        self._score = Histogram(
            "reward_score",
            "(reward - mean) / std, with the checkpoint's mean and std.",
            buckets=SCORES,
            registry=registry,
        )
        self._margin = Histogram(
            "reward_margin",
            "Best reward minus runner-up's in a comparison, over the checkpoint's std.",
            buckets=MARGINS,
            registry=registry,
        )
        drift = Gauge(
            "reward_score_drift",
            "Population stability index of the last 4,096 rewards against the checkpoint's deciles."
            " NaN until there are enough.",
            registry=registry,
        )
        drift.set_function(self._drift.index)

    def observe_scores(self, scores: Sequence[float]) -> None:
        for score in scores:
            self._score.observe((score - self._mean) / self._std)
        self._drift.add(scores)

    def observe_margins(self, margins: Iterable[float]) -> None:
        for margin in margins:
            self._margin.observe(margin / self._std)


def _label(problem_type: str) -> str:
    return problem_type.replace("-", "_")
