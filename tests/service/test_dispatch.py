"""The way past FastAPI's router."""

import asyncio

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.middleware import Middleware
from serving import serving

from service.dispatch import Dispatch

pytestmark = pytest.mark.anyio


async def straight(request: Request) -> Response:
    """Says whether FastAPI's router has seen the request."""
    return Response(str("route" in request.scope))


async def test_a_post_to_a_known_path_does_not_pass_the_router_and_all_else_does() -> None:
    router = APIRouter()
    router.add_api_route("/work", straight, methods=["POST"])
    router.add_api_route("/read", straight, methods=["GET"])
    app = FastAPI(middleware=[Middleware(Dispatch, router.routes)])
    app.include_router(router)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        assert (await client.post("/work?query")).text == "False"
        assert (await client.get("/read")).text == "True"
        assert (await client.get("/work")).status_code == 405
        assert (await client.post("/read")).status_code == 405


async def test_the_scoring_routes_go_straight_and_still_refuse_other_methods() -> None:
    async with serving() as (client, _):
        for path in ("/score", "/compare", "/render"):
            assert (await client.post(path, content=b"")).status_code == 415
            assert (await client.post(f"{path}/")).status_code == 404
            response = await client.get(path)
            assert (response.status_code, response.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize("path", ["/one/{key}", "/two"])
def test_a_route_that_needs_fastapi_is_refused_when_the_service_is_put_together(path: str) -> None:
    async def with_key(request: Request, key: str = Depends(asyncio.Event)) -> Response:
        pytest.fail("it was called past the dependency that it needs")

    router = APIRouter()
    router.add_api_route(path, straight if "{" in path else with_key, methods=["POST"])
    with pytest.raises(AssertionError):
        Dispatch(FastAPI(), router.routes)
