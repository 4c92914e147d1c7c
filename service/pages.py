"""The pages for people: playground at /, reference at /docs. Each is one file that needs nothing else.

Knows the OpenAPI document and two static files, nothing of models.
"""

import base64
import hashlib
import json
import re
from html import escape
from importlib.resources import files
from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, JSONResponse

from service.health import READ

Json = dict[str, Any]
#: Other sites' pages neither get hold of these, nor learn from where they were opened.
ISOLATION = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}


def page_router(document: Json) -> APIRouter:
    """/, /docs and /openapi.json, the latter two of the OpenAPI `document`."""
    router = APIRouter()
    playground = _page("playground.html", {})
    reference = _page("docs.html", _reference(document))

    @router.api_route("/", methods=READ)
    async def show_playground() -> HTMLResponse:
        return playground

    @router.api_route("/docs", methods=READ)
    async def show_reference() -> HTMLResponse:
        return reference

    @router.api_route("/openapi.json", methods=READ)
    async def show_document() -> JSONResponse:
        return JSONResponse(document)

    return router


def _page(name: str, values: dict[str, str]) -> HTMLResponse:
    html = (files("service") / "static" / name).read_text("utf-8")
    html = re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], html)
    # The browser runs this page's own script and style and loads nothing from anywhere else.
    policy = (
        f"default-src 'none'; script-src {_hashes('script', html)}; style-src {_hashes('style', html)};"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(html, headers={"Content-Security-Policy": policy} | ISOLATION)


def _hashes(tag: str, html: str) -> str:
    blocks = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() for block in blocks]
    return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"


def _reference(document: Json) -> dict[str, str]:
    operations = [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    links = [f'<a href="#{escape(o["operationId"])}">{escape(path)}</a>' for _, path, o in operations]
    schemas = document["components"]["schemas"]
    body = [_section(method, path, operation, schemas) for method, path, operation in operations]
    info = document["info"]
    return {
        "title": escape(f"{info['title']} {info['version']}"),
        "description": escape(info["description"]),
        "body": f"<nav>{''.join(links)}</nav>" + "".join(body),
    }


def _section(method: str, path: str, operation: Json, schemas: Json) -> str:
    title = f'<h2 id="{escape(operation["operationId"])}"><code>{method.upper()} {escape(path)}</code></h2>'
    parts = [title, f"<p>{escape(operation['summary'])}</p>"]
    if "requestBody" in operation:
        schema = _resolve(operation["requestBody"]["content"]["application/json"]["schema"], schemas)
        parts += [_example(path, schema), _details("Request schema", schema, schemas)]
    success = operation["responses"]["200"]["content"]
    if "application/json" in success:
        parts.append(_details("Response schema", _resolve(success["application/json"]["schema"], schemas), schemas))
    rows = [
        f"<tr><td>{escape(status)}</td><td>{escape(response['description'])}</td></tr>"
        for status, response in operation["responses"].items()
    ]
    parts.append(f"<table><tr><th>status</th><th>meaning</th></tr>{''.join(rows)}</table>")
    return "".join(parts)


def _example(path: str, schema: Json) -> str:
    examples = [json.dumps(example, indent=2, ensure_ascii=False) for example in schema.get("examples", [])]
    commands = [f"curl -s localhost:8000{path} --json '{example}'" for example in examples]
    return "".join(f"<h3>Example</h3><pre>{escape(command)}</pre>" for command in commands)


def _details(title: str, schema: Json, schemas: Json) -> str:
    shown = {key: value for key, value in schema.items() if key != "examples"}
    used = _used(shown, schemas, {})
    text = json.dumps(shown | ({"$defs": used} if used else {}), indent=2, ensure_ascii=False)
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def _used(node: object, schemas: Json, found: Json) -> Json:
    """Adds to `found` every schema that `node` refers to, directly or not."""
    children = list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []
    if isinstance(node, dict) and "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        if name not in found:
            found[name] = schemas[name]
            _used(schemas[name], schemas, found)
    for child in children:
        _used(child, schemas, found)
    return found


def _resolve(schema: Json, schemas: Json) -> Json:
    resolved: Json = schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    return resolved
