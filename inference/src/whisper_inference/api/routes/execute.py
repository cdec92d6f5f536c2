"""Internal routes, by which a gateway runs one job here: docs/api.md, "Internal". Not in the OpenAPI document."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from starlette.types import Receive, Scope, Send

from whisper_inference.api.dependencies import OperatorDep, ServicesDep, no_unknown_queries
from whisper_inference.errors import MalformedRequest
from whisper_inference.execution import EXECUTE_MEDIA_TYPE, ExecuteMessage
from whisper_inference.service.executions import CallerGone, Executions
from whisper_inference.worker.protocol import encode

_SEND_SECONDS = 60.0
"""A caller that reads nothing for this long is gone. It may be slow to store what it reads."""

router = APIRouter(include_in_schema=False, dependencies=[Depends(no_unknown_queries)])


def executions_of(services: ServicesDep) -> Executions:
    """Return what runs jobs for gateways; a gateway itself has no such routes."""
    assert services.executions is not None
    return services.executions


ExecutionsDep = Annotated[Executions, Depends(executions_of)]


@router.post("/execute")
async def execute(request: Request, executions: ExecutionsDep, _principal: OperatorDep) -> Response:
    """Lend a slot, and run the job whose order and audio then arrive in the body."""
    if request.headers.get("content-type") != EXECUTE_MEDIA_TYPE:
        raise MalformedRequest(reason=f"the Content-Type is not {EXECUTE_MEDIA_TYPE}")
    executions.require_acceptable()
    return _Exchange(executions)


@router.delete("/execute/{job_id}", status_code=204)
async def stop(job_id: str, executions: ExecutionsDep, _principal: OperatorDep) -> None:
    """Request that a job stops; the response to its POST then ends with Stopped."""
    await executions.cancel(job_id)


class _Exchange(Response):
    """A response whose lines are sent while the request's body arrives.

    Starlette's StreamingResponse would receive the body itself, to notice a disconnect.
    """

    media_type = "application/x-ndjson"

    def __init__(self, executions: Executions) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"Cache-Control": "no-store"})
        self._executions = executions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Serve the caller until its job has ended or it is gone."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await self._executions.serve(_HttpCaller(receive, send))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _HttpCaller:
    """The client of one request."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._ended = False

    async def send(self, message: ExecuteMessage) -> None:
        """Send a line. Raises CallerGone when the client does not read."""
        line = encode(message) + b"\n"
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                await self._send({"type": "http.response.body", "body": line, "more_body": True})
        except TimeoutError:
            raise CallerGone from None

    async def receive(self) -> bytes | None:
        """Return the next bytes of the body, None at its end. Raises CallerGone."""
        while not self._ended:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise CallerGone
            self._ended = not message.get("more_body", False)
            if body := message.get("body", b""):
                return body
        return None

    async def gone(self) -> None:
        """Wait until the client has disconnected; all that can come after the body."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
