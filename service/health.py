"""What probes and Prometheus ask: /livez, /readyz, /metrics. Answered without doing any work.

Liveness is progress while work waits; readiness is the phase, which overload does not change.
"""

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client.exposition import choose_encoder

from service.runtime import Runtime

#: Whatever can be read can also be asked for its head, which FastAPI leaves out.
READ = ["GET", "HEAD"]
router = APIRouter(default_response_class=PlainTextResponse)


@router.api_route("/livez", methods=READ)
async def livez(request: Request) -> Response:
    """200 as long as the process makes progress; a restart is the cure for anything else."""
    _runtime(request).check_progress()
    return PlainTextResponse("live\n")


@router.api_route("/readyz", methods=READ)
async def readyz(request: Request) -> Response:
    """200 from loaded, verified and warmed up until told to end."""
    _runtime(request).lifecycle.check_ready()
    _runtime(request).check_progress()
    return PlainTextResponse("ready\n")


@router.api_route("/metrics", methods=READ)
async def metrics(request: Request) -> Response:
    """Everything that is counted, in the format that is asked for."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(_runtime(request).metrics.registry), headers={"Content-Type": content_type})


def _runtime(request: Request) -> Runtime:
    runtime = request.app.state.runtime
    assert isinstance(runtime, Runtime)
    return runtime
