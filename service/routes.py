"""The native routes: what a request asks for, in the words of `session`, and its answer.

Knows shapes and their meaning; statuses, threads and queues are other modules' business.
"""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from reward_model.calibration import UNCALIBRATED, Calibration
from reward_model.rendering import Rendered
from reward_model.scores import Score
from service import answers
from service.batcher import Scored
from service.comparison import compare as compare_scores
from service.errors import InvalidRequest
from service.health import READ
from service.places import as_response
from service.schemas import CompareRequest, RenderRequest, ScoreRequest
from service.scorer import ModelInfo
from service.session import Session

MAX_PAIRWISE = 64


router = APIRouter(default_response_class=Response)


@router.post("/score")
async def score(request: Request) -> Response:
    """One score for each input."""
    async with Session(request) as work:
        wire = await work.read(ScoreRequest)
        info = work.engine.scorer.info
        unit = _unit(info) if wire.normalize else (0.0, 1.0)
        rendered = await work.render([one.record() for one in wire.inputs], truncate=wire.truncate)
        scored = await work.score(rendered)
    mean, std = unit
    return _json(
        answers.ScoreResponse(
            model=info.name,
            fingerprint=info.fingerprint,
            scores=[(one.value - mean) / std for one in scored.scores],
            num_tokens=[len(one.token_ids) for one in rendered],
            truncated=[one.truncated for one in rendered],
            attributes=[one.attributes or {} for one in scored.scores] if info.attributes else None,
            usage=_usage(rendered, scored),
        ),
        leave_out=set() if info.attributes else {"attributes"},
    )


@router.post("/compare")
async def compare(request: Request) -> Response:
    """The responses of each comparison against each other."""
    async with Session(request) as work:
        wire = await work.read(CompareRequest)
        _check_pairwise(wire)
        groups = [(one.as_prompt(), one.responses) for one in wire.comparisons]
        places = [as_response(g, r) for g, (_, responses) in enumerate(groups) for r in range(len(responses))]
        rendered = await work.render_groups(groups, truncate=wire.truncate)
        scored = await work.score(rendered, places.__getitem__)
        info = work.engine.scorer.info
    calibration = _calibration(info)
    answered = iter(zip(rendered, scored.scores, strict=True))
    results = [
        _compared(list(islice(answered, len(responses))), calibration, pairwise=wire.pairwise)
        for _, responses in groups
    ]
    work.observe_margins([result.margin for result in results])
    return _json(
        answers.CompareResponse(
            model=info.name,
            fingerprint=info.fingerprint,
            calibrated=calibration.calibrated,
            temperature=calibration.temperature,
            results=results,
            usage=_usage(rendered, scored),
        )
    )


@router.post("/render")
async def render(request: Request) -> Response:
    """What exactly would be scored; nothing is."""
    async with Session(request) as work:
        wire = await work.read(RenderRequest, to_score=False)
        rendered = await work.render([one.record() for one in wire.inputs], truncate=wire.truncate)
        texts = await work.texts(rendered)
        info = work.engine.scorer.info
    results = [
        answers.RenderedInput(text=text, token_ids=one.token_ids, truncated=one.truncated)
        for text, one in zip(texts, rendered, strict=True)
    ]
    return _json(answers.RenderResponse(model=info.name, fingerprint=info.fingerprint, results=results))


@router.api_route("/model", methods=READ)
async def describe(request: Request) -> Response:
    """The loaded model."""
    info = request.app.state.runtime.engine().scorer.info
    return _json(answers.ModelResponse.model_validate(info, from_attributes=True))


def _compared(
    answered: Sequence[tuple[Rendered, Score]], calibration: Calibration, *, pairwise: bool
) -> answers.ComparisonResult:
    scores = [score.value for _, score in answered]
    return answers.ComparisonResult(
        scores=scores,
        **asdict(compare_scores(scores, calibration, pairwise=pairwise)),
        num_tokens=[len(one.token_ids) for one, _ in answered],
        truncated=[one.truncated for one, _ in answered],
    )


def _unit(info: ModelInfo) -> tuple[float, float]:
    """Mean and standard deviation that `normalize` uses."""
    if info.reward is None or info.reward.std <= 0:
        raise InvalidRequest([("normalize", "this checkpoint has no reward statistics to normalise with")])
    return info.reward.mean, info.reward.std


def _check_pairwise(wire: CompareRequest) -> None:
    for index, comparison in enumerate(wire.comparisons):
        if wire.pairwise and len(comparison.responses) > MAX_PAIRWISE:
            msg = f"pairwise takes up to {MAX_PAIRWISE} responses, not {len(comparison.responses)}"
            raise InvalidRequest([(f"comparisons[{index}].responses", msg)])


def _calibration(info: ModelInfo) -> Calibration:
    """A temperature that should not be trusted is not used."""
    calibration = info.calibration
    return calibration if calibration is not None and calibration.calibrated else UNCALIBRATED


def _usage(rendered: Sequence[Rendered], scored: Scored) -> answers.Usage:
    num_tokens = sum(len(one.token_ids) for one in rendered)
    return answers.Usage(input_tokens=num_tokens, computed_tokens=scored.computed_tokens)


def _json(answer: BaseModel, *, leave_out: set[str] | None = None) -> Response:
    return Response(answer.model_dump_json(exclude=leave_out), media_type="application/json")
