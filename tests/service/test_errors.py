"""Every error has one status, a stable type, and says nothing that its caller should not see."""

import re

import pytest

from reward_model import errors as input_errors
from service import errors
from service.errors import STATUS, ServiceError, problem_of, rejection_types, status_of


def descendants(kind: type[Exception]) -> list[type[Exception]]:
    return [kind, *(below for child in kind.__subclasses__() for below in descendants(child))]


LEAVES = [kind for kind in descendants(ServiceError) if not kind.__subclasses__()]
INPUT_ERRORS = descendants(input_errors.InputError)


def make(kind: type[Exception]) -> Exception:
    if issubclass(kind, errors.ComputeError):
        return kind(3)
    if issubclass(kind, errors.InvalidRequest):
        return kind([("inputs[0].response", "must be a string")])
    if issubclass(kind, input_errors.TooLong):
        return kind("70 tokens, the limit is 64", num_tokens=70, limit=64)
    return kind("what is wrong")


@pytest.mark.parametrize("kind", LEAVES + INPUT_ERRORS)
def test_every_error_has_a_row_in_the_table(kind: type[Exception]) -> None:
    assert kind in STATUS


@pytest.mark.parametrize("kind", LEAVES)
def test_every_error_is_drawn_in_the_docstring(kind: type[Exception]) -> None:
    assert errors.__doc__ is not None
    assert re.search(rf"── {kind.__name__}\b", errors.__doc__)


@pytest.mark.parametrize("kind", LEAVES + INPUT_ERRORS)
def test_every_problem_says_what_it_is(kind: type[Exception]) -> None:
    problem = problem_of(make(kind))
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", problem.type)
    assert problem.title
    assert problem.detail
    assert problem.status == STATUS[kind]


def test_types_are_told_apart() -> None:
    types = [problem_of(make(kind)).type for kind in LEAVES + INPUT_ERRORS]
    assert len(set(types)) == len(types)


def test_types_are_the_promised_ones() -> None:
    assert {problem_of(make(kind)).type for kind in LEAVES + INPUT_ERRORS} == {
        "malformed-json", "unauthorized", "not-found", "method-not-allowed", "too-large", "unsupported-media-type",
        "invalid-request", "non-finite-score", "cannot-compute", "overloaded", "loading", "draining", "broken",
        "deadline-exceeded", "invalid-input", "too-long", "no-tokens", "not-renderable", "bad-token-id",
        "special-token-in-content",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.MalformedJson(), 400),
        (errors.Unauthorized(), 401),
        (errors.NotFound(), 404),
        (errors.MethodNotAllowed(), 405),
        (errors.TooLarge(), 413),
        (errors.UnsupportedMediaType(), 415),
        (errors.InvalidRequest([("body", "wrong")]), 422),
        (input_errors.NotRenderable("no"), 422),
        (errors.NonFiniteScore(0), 500),
        (errors.CannotCompute(0), 500),
        (errors.Overloaded(), 503),
        (errors.Loading(), 503),
        (errors.Draining(), 503),
        (errors.Broken(), 503),
        (errors.DeadlineExceeded(), 504),
    ],
)
def test_statuses_are_those_of_the_contract(error: Exception, status: int) -> None:
    assert status_of(error) == status


def test_an_error_without_a_row_has_the_status_of_its_nearest_base() -> None:
    class Overfull(errors.Overloaded):
        pass

    class OddInput(input_errors.InputError):
        pass

    assert status_of(Overfull()) == 503
    assert status_of(OddInput("odd")) == 422
    assert problem_of(OddInput("odd")).type == "invalid-input"
    assert status_of(ZeroDivisionError()) == 500


def test_an_unforeseen_error_shows_nothing_of_itself() -> None:
    problem = problem_of(KeyError("/srv/models/secret"))
    assert (problem.type, problem.status, problem.retry_after) == ("internal", 500, None)
    assert "secret" not in repr(problem)


def test_a_checkpoint_error_shows_nothing_of_itself() -> None:
    problem = problem_of(input_errors.CheckpointRefused("/srv/models/secret"))
    assert problem.status == 500
    assert "secret" not in repr(problem)


def test_a_failed_input_is_named_by_its_index() -> None:
    assert problem_of(errors.NonFiniteScore(3)).fields == {"index": 3}
    assert errors.CannotCompute(5).index == 5


def test_an_input_that_is_too_long_says_by_how_much() -> None:
    error = input_errors.TooLong("too long", num_tokens=5120, limit=4096)
    assert problem_of(error).fields == {"num_tokens": 5120, "limit": 4096}


def test_further_members_reach_the_problem() -> None:
    assert problem_of(errors.TooLarge("5000 inputs", limit=4096)).fields == {"limit": 4096}


def test_an_invalid_request_lists_all_that_is_wrong_and_says_the_first() -> None:
    error = errors.InvalidRequest([("inputs[0]", "has no response"), ("truncate", "must be true or false")])
    assert error.detail == "inputs[0]: has no response (and 1 more)"
    assert error.fields["errors"][1] == {"location": "truncate", "message": "must be true or false"}
    assert errors.InvalidRequest([("body", "wrong")]).detail == "body: wrong"


@pytest.mark.parametrize("kind", [errors.Overloaded, errors.Loading, errors.Draining, errors.Broken])
def test_whoever_can_try_again_is_told_when(kind: type[errors.Unavailable]) -> None:
    assert (problem_of(kind()).retry_after or 0) >= 1
    assert problem_of(kind(retry_after=17)).retry_after == 17


@pytest.mark.parametrize("kind", LEAVES + INPUT_ERRORS)
def test_only_what_can_succeed_later_says_when(kind: type[Exception]) -> None:
    problem = problem_of(make(kind))
    assert (problem.retry_after is not None) == (problem.status == 503)


def test_rejections_are_what_was_never_computed() -> None:
    names = rejection_types()
    assert {"overloaded", "too-large", "too-long", "unauthorized"} <= set(names)
    assert not {"non-finite-score", "cannot-compute", "deadline-exceeded", "internal"} & set(names)
    assert len(set(names)) == len(names)
