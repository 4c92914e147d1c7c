"""The names, labels and first values of every metric, and what each observation changes."""

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from reward_model.calibration import RewardStatistics
from reward_model.errors import NotRenderable
from reward_model.rendering import Rendered
from service import errors
from service.metrics import Metrics
from service.scorer import ModelInfo
from service.stub import StubScorer

WITHOUT_MODEL = {
    "reward_request_duration_seconds": "histogram",
    "reward_stage_duration_seconds": "histogram",
    "reward_inputs": "counter",
    "reward_batch_tokens": "histogram",
    "reward_batch_sequences": "histogram",
    "reward_batch_budget_tokens": "gauge",
    "reward_queue_sequences": "gauge",
    "reward_queue_tokens": "gauge",
    "reward_tokens": "counter",
    "reward_rejected": "counter",
    "reward_failures": "counter",
    "reward_cancelled": "counter",
    "reward_truncated": "counter",
    "reward_special_in_content": "counter",
    "reward_ready": "gauge",
}
WITH_REFERENCE = {"reward_score": "histogram", "reward_margin": "histogram", "reward_score_drift": "gauge"}
REFERENCE = RewardStatistics(mean=10.0, std=2.0, deciles=tuple(10 + i / 2 for i in range(-4, 5)), n=500)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    return Metrics(registry)


def families(registry: CollectorRegistry) -> Mapping[str, str]:
    return {family.name: family.type for family in registry.collect()}


def info(reward: RewardStatistics | None) -> ModelInfo:
    return replace(StubScorer().info, reward=reward)


def test_names_are_the_promised_ones(registry: CollectorRegistry, metrics: Metrics) -> None:
    assert families(registry) == WITHOUT_MODEL
    metrics.attach_model(info(REFERENCE))
    assert families(registry) == WITHOUT_MODEL | WITH_REFERENCE | {"reward_model_info": "gauge"}


@pytest.mark.parametrize("reference", [None, replace(REFERENCE, std=0.0)])
def test_without_a_reference_scores_are_not_compared(
    registry: CollectorRegistry, metrics: Metrics, reference: RewardStatistics | None
) -> None:
    metrics.attach_model(info(reference))
    metrics.observe_scored([1.0], 0.1, 0.1)
    metrics.observe_margins([1.0])
    assert families(registry) == WITHOUT_MODEL | {"reward_model_info": "gauge"}


def test_a_scrape_has_counters_under_their_full_names_and_no_creation_times(
    registry: CollectorRegistry, metrics: Metrics
) -> None:
    page = generate_latest(registry).decode()
    for name in ("inputs", "tokens", "rejected", "failures", "cancelled", "truncated", "special_in_content"):
        assert f"# TYPE reward_{name}_total counter" in page
    assert "_created" not in page


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        *(("reward_stage_duration_seconds_count", {"stage": stage}) for stage in ("tokenize", "queue", "forward")),
        *(("reward_tokens_total", {"kind": kind}) for kind in ("input", "computed", "padding")),
        *(("reward_failures_total", {"reason": why}) for why in ("non_finite", "oom", "fault", "deadline")),
        *(("reward_rejected_total", {"reason": why}) for why in ("overloaded", "loading", "too_large", "too_long")),
        ("reward_cancelled_total", {}),
        ("reward_inputs_total", {}),
        ("reward_ready", {}),
        ("reward_queue_tokens", {}),
    ],
)  # fmt: skip
def test_what_is_known_beforehand_starts_at_zero(
    registry: CollectorRegistry, metrics: Metrics, name: str, labels: dict[str, str]
) -> None:
    assert registry.get_sample_value(name, labels) == 0


def test_durations_are_counted_from_half_a_millisecond_to_a_minute(
    registry: CollectorRegistry, metrics: Metrics
) -> None:
    metrics.observe_request("/score", 200, 0.0004)
    metrics.observe_request("/score", 200, 59.0)
    metrics.observe_request("/score", 503, 0.1)
    name, labels = "reward_request_duration_seconds", {"route": "/score", "status": "200"}
    assert registry.get_sample_value(f"{name}_count", labels) == 2
    assert registry.get_sample_value(f"{name}_bucket", {**labels, "le": "0.0005"}) == 1
    assert registry.get_sample_value(f"{name}_bucket", {**labels, "le": "30.0"}) == 1
    assert registry.get_sample_value(f"{name}_bucket", {**labels, "le": "60.0"}) == 2


def test_rendering_counts_what_was_cut_and_what_could_forge_a_turn(
    registry: CollectorRegistry, metrics: Metrics
) -> None:
    rendered = [
        Rendered("a", [1, 2], truncated=True, special_in_content=2),
        Rendered("b", [3], special_in_content=1),
    ]
    metrics.observe_rendered(rendered, 0.25)
    assert registry.get_sample_value("reward_truncated_total") == 1
    assert registry.get_sample_value("reward_special_in_content_total") == 3
    assert registry.get_sample_value("reward_stage_duration_seconds_sum", {"stage": "tokenize"}) == 0.25


def test_admission_and_batches_count_tokens_by_kind(registry: CollectorRegistry, metrics: Metrics) -> None:
    metrics.observe_admitted(3, 120)
    metrics.observe_batch(3, 110, padding=18)
    metrics.observe_queue(7, 900)
    values = {kind: registry.get_sample_value("reward_tokens_total", {"kind": kind}) for kind in ("input", "computed")}
    assert values == {"input": 120, "computed": 110}
    assert registry.get_sample_value("reward_tokens_total", {"kind": "padding"}) == 18
    assert registry.get_sample_value("reward_inputs_total") == 3
    assert registry.get_sample_value("reward_batch_tokens_bucket", {"le": "128.0"}) == 1
    assert registry.get_sample_value("reward_batch_tokens_bucket", {"le": "64.0"}) == 0
    assert registry.get_sample_value("reward_batch_sequences_bucket", {"le": "4.0"}) == 1
    assert registry.get_sample_value("reward_queue_sequences") == 7
    assert registry.get_sample_value("reward_queue_tokens") == 900


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.Overloaded(), "overloaded"),
        (errors.TooLarge(), "too_large"),
        (NotRenderable("no template"), "not_renderable"),
    ],
)
def test_a_rejection_is_counted_under_its_type(
    registry: CollectorRegistry, metrics: Metrics, error: Exception, reason: str
) -> None:
    metrics.observe_rejected(error)
    assert registry.get_sample_value("reward_rejected_total", {"reason": reason}) == 1


@pytest.mark.parametrize("error", [errors.NonFiniteScore(0), errors.DeadlineExceeded(), ZeroDivisionError()])
def test_what_failed_later_is_no_rejection(registry: CollectorRegistry, metrics: Metrics, error: Exception) -> None:
    metrics.observe_rejected(error)
    values = [
        sample.value for family in registry.collect() for sample in family.samples if family.name == "reward_rejected"
    ]
    assert set(values) == {0}


def test_failures_and_hang_ups_are_counted(registry: CollectorRegistry, metrics: Metrics) -> None:
    metrics.observe_failure("non_finite")
    metrics.observe_failure("fault", 4)
    metrics.observe_cancelled()
    assert registry.get_sample_value("reward_failures_total", {"reason": "non_finite"}) == 1
    assert registry.get_sample_value("reward_failures_total", {"reason": "fault"}) == 4
    assert registry.get_sample_value("reward_cancelled_total") == 1


def test_scores_and_margins_are_in_units_of_the_reference(registry: CollectorRegistry, metrics: Metrics) -> None:
    metrics.attach_model(info(REFERENCE))
    metrics.observe_scored([11.0, 16.0], 0.5, 0.25)
    metrics.observe_margins([5.0])
    assert registry.get_sample_value("reward_score_count") == 2
    below = [registry.get_sample_value("reward_score_bucket", {"le": edge}) for edge in ("0.0", "0.5", "2.5", "3.0")]
    assert below == [0, 1, 1, 2]
    assert registry.get_sample_value("reward_margin_sum") == pytest.approx(2.5)
    assert registry.get_sample_value("reward_stage_duration_seconds_sum", {"stage": "queue"}) == 0.5
    assert registry.get_sample_value("reward_stage_duration_seconds_sum", {"stage": "forward"}) == 0.25


def test_drift_is_computed_when_it_is_asked_for(registry: CollectorRegistry, metrics: Metrics) -> None:
    metrics.attach_model(info(REFERENCE))
    assert math.isnan(registry.get_sample_value("reward_score_drift") or 0.0)
    metrics.observe_scored([13.5] * 500, 0.1, 0.1)
    drift = registry.get_sample_value("reward_score_drift")
    assert drift is not None
    assert drift > 0.25


def test_the_model_is_named_by_its_labels(registry: CollectorRegistry, metrics: Metrics) -> None:
    model = info(REFERENCE)
    metrics.attach_model(model)
    labels = {"model": "stub", "fingerprint": model.fingerprint, "device": "cpu", "dtype": "float64"}
    assert registry.get_sample_value("reward_model_info", labels) == 1


def test_two_services_count_apart() -> None:
    first, second = CollectorRegistry(), CollectorRegistry()
    Metrics(first).observe_cancelled()
    Metrics(second)
    assert first.get_sample_value("reward_cancelled_total") == 1
    assert second.get_sample_value("reward_cancelled_total") == 0
