"""The server's routes: parameters, forms and answers, from the application's own OpenAPI document."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts

from tools.contract.programs import server_metrics
from tools.contract.schemas import Json, fields, resolved, shape
from whisper_inference.api.app import make_app
from whisper_inference.api.dependencies import Services


def routes() -> Iterator[str]:
    """Yield a line for each route, parameter, field of a request or response, and kind of error response."""
    app = _application()
    for context in iter_route_contexts(app.routes):
        route = context.route
        if isinstance(route, APIRoute) and not route.include_in_schema:
            yield from (f"{context.path} {method}: not in the document" for method in sorted(route.methods or ()))
    document = app.openapi()
    definitions = document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield from (f"{path} {method.upper()}{line}" for line in _operation(operation, definitions))


def _application() -> FastAPI:
    # The OpenAPI document depends only on the version.
    services = SimpleNamespace(executions=object(), version="0", metrics=server_metrics())
    return make_app(cast("Services", services))


def _operation(operation: Json, definitions: Json) -> Iterator[str]:
    yield ": with a key" if operation.get("security") else ": without a key"
    for parameter in operation.get("parameters", ()):
        name = parameter["name"] if parameter["required"] else f"{parameter['name']}?"
        yield f" {parameter['in']} {name}: {shape(parameter['schema'], definitions)}"
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        yield from _body(f" body {media}", content, definitions)
    yield from _answers(operation["responses"], definitions)


def _answers(answers: Json, definitions: Json) -> Iterator[str]:
    errors: dict[str, list[str]] = defaultdict(list)
    for status, answer in sorted(answers.items()):
        for media, content in answer.get("content", {"nothing": {}}).items():
            if int(status) < 400:
                yield from _body(f" {status} {media}", content, definitions)
            else:
                errors[f"{media} {shape(content.get('schema', {}), definitions)}"].append(status)
    # Group statuses with the same body, because nearly all errors are problem documents.
    for body, statuses in errors.items():
        yield f" {' '.join(statuses)}: {body}"


def _body(head: str, content: Json, definitions: Json) -> Iterator[str]:
    schema = resolved(content.get("schema", {}), definitions)
    if not schema.get("properties"):
        yield f"{head}: {shape(schema, definitions)}"
    for name, text in fields(schema, definitions).items():
        yield f"{head} {name}: {text}"
