"""The metrics, and the OpenAPI document with its page."""

from __future__ import annotations

from typing import cast

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse

from whisper_inference.api.dependencies import ServicesDep, UserDep, no_unknown_queries, scraper

router = APIRouter(tags=["metrics"], dependencies=[Depends(no_unknown_queries)])


@router.get("/metrics", dependencies=[Depends(scraper)], responses={200: {"content": {"text/plain": {}}}})
async def metrics(services: ServicesDep) -> Response:
    """Return the metrics in Prometheus' text format."""
    return Response(await services.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/openapi.json", include_in_schema=False)
async def schema(request: Request, _principal: UserDep) -> JSONResponse:
    """Return the OpenAPI document."""
    return JSONResponse(cast("FastAPI", request.app).openapi())


@router.get("/docs", include_in_schema=False)
async def pages(request: Request, _principal: UserDep) -> HTMLResponse:
    """Return a page that shows the OpenAPI document."""
    return get_swagger_ui_html(openapi_url="/openapi.json", title=cast("FastAPI", request.app).title)
