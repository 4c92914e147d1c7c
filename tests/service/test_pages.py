"""The pages for people, and the document for machines."""

import re
from typing import Any

import pytest
from serving import serving

from service.errors import STATUS

pytestmark = pytest.mark.anyio


@pytest.fixture
async def document() -> dict[str, Any]:
    async with serving() as (client, _):
        found: dict[str, Any] = (await client.get("/openapi.json")).json()
        return found


@pytest.mark.parametrize("page", ["/", "/docs"])
async def test_a_page_needs_nothing_from_anywhere_else(page: str) -> None:
    async with serving() as (client, _):
        response = await client.get(page)
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", response.text)
    assert "@import" not in response.text
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "unsafe" not in response.headers["Content-Security-Policy"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
    assert response.headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in response.headers
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"


@pytest.mark.parametrize("page", ["/", "/docs"])
async def test_a_page_has_a_light_and_a_dark_face(page: str) -> None:
    async with serving() as (client, _):
        text = (await client.get(page)).text
    assert "prefers-color-scheme: dark" in text
    assert '<meta name="color-scheme" content="light dark">' in text


async def test_the_playground_never_reads_text_as_markup() -> None:
    async with serving() as (client, _):
        text = (await client.get("/")).text
    for way_in in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert way_in not in text


async def test_the_reference_shows_every_route_of_the_document(document: dict[str, Any]) -> None:
    async with serving() as (client, _):
        text = (await client.get("/docs")).text
    for path, operations in document["paths"].items():
        for method in operations:
            assert f"<code>{method.upper()} {path}</code>" in text


async def test_the_document_knows_every_route(document: dict[str, Any]) -> None:
    routes = {"/score", "/compare", "/render", "/model", "/livez", "/readyz", "/metrics", "/", "/docs", "/openapi.json"}
    assert set(document["paths"]) == routes


async def test_every_error_status_is_documented_as_a_problem(document: dict[str, Any]) -> None:
    for path in ("/score", "/compare", "/render"):
        responses = document["paths"][path]["post"]["responses"]
        documented = {int(status) for status in responses}
        assert documented == {200} | (set(STATUS.values()) - {404, 405})
        for status in documented - {200}:
            assert list(responses[str(status)]["content"]) == ["application/problem+json"]


async def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    for name in re.findall(r"'\$ref': '#/components/schemas/(\w+)'", str(document)):
        assert name in document["components"]["schemas"]


@pytest.mark.parametrize("path", ["/score", "/compare", "/render"])
async def test_the_examples_work(path: str, document: dict[str, Any]) -> None:
    name = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    examples = document["components"]["schemas"][name.rpartition("/")[2]]["examples"]
    assert examples
    async with serving() as (client, _):
        for example in examples:
            assert (await client.post(path, json=example)).status_code == 200
