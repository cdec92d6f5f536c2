"""Calls to the servers in pods: status, load, unload, and memory from their metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar, get_args

from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel, ConfigDict, ValidationError

from whisper_cluster.errors import NotLeading, PodRefused, PodUnreachable
from whisper_cluster.names import SERVER_PORT
from whispermodel.states import Depth, ServerState
from whispermodel.wire import LoadAnswer, ModelStatus, UnloadAnswer

STATUS_SECONDS = 3.0
"""The timeout of a status request: the server's event loop responds in milliseconds, whatever the model does."""
LOAD_SECONDS = 3600.0
"""The timeout of a load, which may download a checkpoint. A call that timed out joins the load when it is retried."""
UNLOAD_SECONDS = 60.0
_MOST_BYTES = 4 * 2**20
"""A longer response does not come from our server."""

AnswerT = TypeVar("AnswerT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a pod's server listens, and the key to it."""

    ip: str
    key: str | None = None
    port: int = SERVER_PORT

    @property
    def url(self) -> str:
        """The root of its routes."""
        host = f"[{self.ip}]" if ":" in self.ip else self.ip
        return f"http://{host}:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        """The headers that a request needs to be let in."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


@dataclass(frozen=True, slots=True)
class Memory:
    """What a pod holds; bytes. resident counts shared pages by their share (PSS)."""

    resident: int = 0
    gpu: int = 0
    gpu_reserved: int = 0

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.resident + other.resident, self.gpu + other.gpu, self.gpu_reserved + other.gpu_reserved)


@dataclass(frozen=True, slots=True)
class Reply:
    """A server's response."""

    status: int
    body: bytes


class Http(Protocol):
    """Makes one request."""

    async def fetch(
        self, method: str, url: str, *, query: Mapping[str, str], headers: Mapping[str, str], most_bytes: int
    ) -> Reply:
        """Return the response, its body truncated to most_bytes + 1. Raises OSError. Does not follow redirects."""
        ...


class PodClient:
    """Calls to pods. Every method raises PodUnreachable, load and unload also PodRefused.

    may_act: called right before a load or unload is sent; if it returns False, these raise NotLeading.
    """

    def __init__(self, http: Http, *, may_act: Callable[[], bool] = lambda: True) -> None:
        self._http = http
        self._may_act = may_act

    async def report(self, address: Address) -> ModelStatus:
        """Return the status of a pod's model."""
        status = _parsed(ModelStatus, await self._call("GET", address, "/model/status", seconds=STATUS_SECONDS))
        if status.state not in get_args(ServerState):
            raise PodUnreachable(f"invalid response (state: no server's model is {status.state})")
        return status

    async def load(self, address: Address) -> LoadAnswer:
        """Load a pod's model, or join the load in progress."""
        return _parsed(LoadAnswer, await self._call("POST", address, "/model/load", seconds=LOAD_SECONDS))

    async def unload(self, address: Address, *, depth: Depth) -> UnloadAnswer:
        """Unload a pod's model once its running work has ended."""
        query = {"depth": depth.value, "timeout": "30"}
        answer = await self._call("POST", address, "/model/unload", seconds=UNLOAD_SECONDS, query=query)
        return _parsed(UnloadAnswer, answer)

    async def memory(self, address: Address) -> Memory:
        """Return what a pod holds, from its Prometheus metrics."""
        text = await self._call("GET", address, "/metrics", seconds=STATUS_SECONDS)
        try:
            return _memory_of(text.decode())
        except ValueError as error:
            raise PodUnreachable(f"invalid metrics: {error}") from error

    async def _call(
        self, method: str, address: Address, path: str, *, seconds: float, query: Mapping[str, str] | None = None
    ) -> bytes:
        url = f"{address.url}{path}"
        if method != "GET" and not self._may_act():
            raise NotLeading(f"{method} {url}")
        try:
            async with asyncio.timeout(seconds):
                reply = await self._http.fetch(
                    method, url, query=query or {}, headers=address.headers, most_bytes=_MOST_BYTES
                )
        except TimeoutError as error:
            raise PodUnreachable(f"{method} {url}: timed out after {seconds:g} s") from error
        except OSError as error:
            raise PodUnreachable(f"{method} {url}: {error or 'connection closed'}") from error
        if len(reply.body) > _MOST_BYTES:
            raise PodUnreachable(f"{method} {url}: the response has more than {_MOST_BYTES} bytes")
        if 200 <= reply.status < 300:
            return reply.body
        raise refusal(reply)


def _parsed(answer: type[AnswerT], body: bytes) -> AnswerT:
    try:
        return answer.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise PodUnreachable(f"invalid response ({where}: {first['msg']})") from error


class _Problem(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    detail: str = ""
    code: str = "unknown"


def refusal(reply: Reply) -> PodRefused:
    """Return the error that a server's response other than 2xx describes."""
    try:
        problem = _Problem.model_validate_json(reply.body)
    except ValidationError:
        problem = _Problem()
    message = problem.detail or f"HTTP {reply.status}"
    return PodRefused(message, code=problem.code, status=reply.status)


def _memory_of(text: str) -> Memory:
    wanted = {"whisper_memory_bytes": "proportional", "whisper_gpu_memory_bytes": None}
    sums: dict[str, float] = {"proportional": 0.0, "used": 0.0, "reserved": 0.0}
    for family in text_string_to_metric_families(text):
        if family.name in wanted:
            for sample in family.samples:
                kind = sample.labels.get("kind", "")
                if wanted[family.name] in (None, kind) and kind in sums:
                    sums[kind] += sample.value
    return Memory(_whole(sums["proportional"]), _whole(sums["used"]), _whole(sums["reserved"]))


def _whole(count: float) -> int:
    if not 0 <= count < 2**53:
        raise ValueError(f"invalid number of bytes: {count:g}")
    return int(count)
