"""The API server, as JSON over the official client's connection. The only module that imports that client.

Writes are server-side applies under one field manager: a field that is left out of an apply is removed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass
from typing import Protocol, TypedDict, Unpack, cast

import aiohttp
import yaml
from kubernetes.aio import client, config

from whisper_cluster.errors import ClusterError, CrdMissing, NotLeading

_REQUEST_SECONDS = 15.0
_PAGE = 250
WATCH_SECONDS = 300
"""How long a watch lasts before it is started again, so that a dead connection does not go unnoticed."""
_WATCH_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=90)
"""The API server sends a bookmark about every minute (k8s.io/apiserver, pkg/storage/cacher)."""
_CONNECTION_ERRORS = (aiohttp.ClientError, TimeoutError, OSError, asyncio.IncompleteReadError)

JsonObject = dict[str, object]


@dataclass(frozen=True, slots=True)
class Kind:
    """The API path of a kind. api: as in apiVersion."""

    api: str
    kind: str
    plural: str

    def path(self, namespace: str | None, name: str | None = None, *, subresource: str | None = None) -> str:
        """Return the path of a collection, an object or a subresource. namespace: None means all namespaces."""
        root = f"/apis/{self.api}" if "/" in self.api else f"/api/{self.api}"
        parts = [root, f"namespaces/{namespace}" if namespace else "", self.plural, name or "", subresource or ""]
        return "/".join(part for part in parts if part)


WHISPER_MODELS = Kind("audio-transcriber.io/v1alpha1", "WhisperModel", "whispermodels")
DEPLOYMENTS = Kind("apps/v1", "Deployment", "deployments")
SERVICES = Kind("v1", "Service", "services")
PODS = Kind("v1", "Pod", "pods")
SECRETS = Kind("v1", "Secret", "secrets")
LEASES = Kind("coordination.k8s.io/v1", "Lease", "leases")
NETWORK_POLICIES = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
EVENTS = Kind("events.k8s.io/v1", "Event", "events")


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """A change of an object."""

    type: str
    """ADDED, MODIFIED, DELETED or BOOKMARK."""
    object: JsonObject
    """As it is after the change, or was before its deletion."""


class RequestCounter(Protocol):
    """Counts requests to the API server."""

    def counted(self, verb: str, resource: str, code: int) -> None:
        """Count one response. code: 0 means that there was none."""
        ...


class _Options(TypedDict, total=False):
    """What a request has besides its path."""

    query: Mapping[str, str]
    body: JsonObject
    content: str
    """The media type of the body."""
    headers: Mapping[str, str]


class _Response(Protocol):
    status: int
    response: aiohttp.ClientResponse

    async def read(self) -> bytes: ...


class _Transport(Protocol):
    """The methods of the client that are used here; the client declares no types."""

    async def param_serialize(
        self,
        method: str,
        resource_path: str,
        *,
        query_params: list[tuple[str, str]],
        header_params: dict[str, str],
        body: object,
        auth_settings: list[str],
    ) -> tuple[object, ...]: ...

    async def call_api(self, *request: object, _request_timeout: aiohttp.ClientTimeout | float) -> _Response: ...


class _Config(Protocol):
    def load_incluster_config(self) -> None: ...

    async def load_kube_config(self) -> None: ...


class Cluster:
    """Reads and writes objects as plain JSON. Every method raises ClusterError."""

    def __init__(self, api: client.ApiClient, *, counter: RequestCounter, field_manager: str) -> None:
        self._api = cast("_Transport", api)
        self._counter = counter
        self._field_manager = field_manager
        self._may_act: Callable[[], bool] = lambda: True

    def fenced(self, may_act: Callable[[], bool]) -> Cluster:
        """Return this cluster with every write raising NotLeading while `may_act` returns False."""
        fenced = copy(self)
        fenced._may_act = may_act
        return fenced

    async def get(self, kind: Kind, namespace: str, name: str) -> JsonObject | None:
        """Return an object; None: it does not exist."""
        try:
            return await self._send("get", kind, kind.path(namespace, name))
        except ClusterError as error:
            if error.is_absence:
                return None
            raise

    async def list_with_version(
        self, kind: Kind, namespace: str | None, *, labels: str = ""
    ) -> tuple[list[JsonObject], str]:
        """Return all objects of a kind with the labels, and the version from which a watch continues."""
        query = {"labelSelector": labels} if labels else {}
        answer = await self._send("list", kind, kind.path(namespace), query=query, headers=_LAST_REQUEST)
        metadata = cast("JsonObject", answer.get("metadata") or {})
        return cast("list[JsonObject]", answer.get("items") or []), str(metadata.get("resourceVersion", ""))

    async def watch(
        self, kind: Kind, namespace: str | None, *, version: str, labels: str = ""
    ) -> AsyncGenerator[WatchEvent]:
        """Yield what changes after a version, until the API server ends the watch, after WATCH_SECONDS at the latest.

        An event BOOKMARK has nothing but a newer version. Raises ClusterError; code 410: the version is too old.
        """
        query = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_SECONDS)}
        query |= {"resourceVersion": version, **({"labelSelector": labels} if labels else {})}
        action = f"watch {kind.path(namespace)}"
        answer = await self._request("watch", kind, kind.path(namespace), query=query, timeout=_WATCH_TIMEOUT)
        try:
            if answer.status >= 400:
                _decoded(await answer.read(), action=action, code=answer.status)
            async for line in _lines(answer.response.content):
                event = _decoded(line, action=action, code=0)
                changed = cast("JsonObject", event["object"])
                if event["type"] == "ERROR":
                    code = cast("int", changed.get("code") or 0)
                    raise ClusterError(action, code=code, reason=str(changed.get("message") or "the watch failed"))
                yield WatchEvent(str(event["type"]), changed)
        except _CONNECTION_ERRORS as error:
            raise _connection_failed(action, error) from error
        finally:
            answer.response.close()

    async def list_all(self, kind: Kind, namespace: str | None, *, labels: str = "") -> AsyncGenerator[JsonObject]:
        """Yield all objects of a kind with the labels, page by page to save memory."""
        page = {"limit": str(_PAGE), **({"labelSelector": labels} if labels else {})}
        while True:
            answer = await self._send("list", kind, kind.path(namespace), query=page, headers=_LAST_REQUEST)
            for one in cast("list[JsonObject]", answer.get("items") or []):
                yield one
            token = cast("JsonObject", answer.get("metadata") or {}).get("continue")
            if not token:
                return
            page["continue"] = str(token)

    async def list_few(self, kind: Kind, namespace: str, *, labels: str) -> list[JsonObject]:
        """Return the objects with the labels as they are now, not as a cache has them; for those that fit one page."""
        answer = await self._send("list", kind, kind.path(namespace), query={"labelSelector": labels})
        return cast("list[JsonObject]", answer.get("items") or [])

    async def apply(self, kind: Kind, body: Mapping[str, object], *, subresource: str | None = None) -> JsonObject:
        """Server-side apply the object, taking ownership of its fields; return the result."""
        metadata = cast("JsonObject", body["metadata"])
        path = kind.path(str(metadata["namespace"]), str(metadata["name"]), subresource=subresource)
        typed: JsonObject = {"apiVersion": kind.api, "kind": kind.kind, **body}
        query = {"fieldManager": self._field_manager, "force": "true"}
        return await self._send("patch", kind, path, query=query, body=typed, content="application/apply-patch+yaml")

    async def create(self, kind: Kind, body: Mapping[str, object]) -> JsonObject:
        """Create an object."""
        namespace = str(cast("JsonObject", body["metadata"])["namespace"])
        return await self._send(
            "create", kind, kind.path(namespace), body={"apiVersion": kind.api, "kind": kind.kind, **body}
        )

    async def replace(self, kind: Kind, body: Mapping[str, object]) -> JsonObject:
        """Replace an object if its resourceVersion has not changed."""
        metadata = cast("JsonObject", body["metadata"])
        path = kind.path(str(metadata["namespace"]), str(metadata["name"]))
        return await self._send("update", kind, path, body={"apiVersion": kind.api, "kind": kind.kind, **body})

    async def require_crd(self) -> None:
        """Raise CrdMissing unless the cluster has the schema that this operator writes."""
        path = f"/openapi/v3/apis/{WHISPER_MODELS.api}"
        try:
            schema = await self._send("get", WHISPER_MODELS, path)
        except ClusterError as error:
            if error.is_absence:
                raise CrdMissing("the cluster has no WhisperModels: kubectl apply -f crds/whispermodels.yaml") from None
            raise
        if '"specSince"' not in json.dumps(schema):
            # To a field that is not in the schema, server-side apply responds with HTTP 500.
            raise CrdMissing("the cluster's CRD is older than the operator: kubectl apply -f crds/whispermodels.yaml")

    async def _send(self, verb: str, kind: Kind, path: str, **options: Unpack[_Options]) -> JsonObject:
        answer = await self._request(verb, kind, path, **options)
        action = f"{verb} {path}"
        try:
            text = await answer.read()
        except _CONNECTION_ERRORS as error:
            raise _connection_failed(action, error) from error
        return _decoded(text, action=action, code=answer.status)

    async def _request(
        self,
        verb: str,
        kind: Kind,
        path: str,
        *,
        timeout: aiohttp.ClientTimeout | float = _REQUEST_SECONDS,
        **options: Unpack[_Options],
    ) -> _Response:
        content = options.get("content", "application/json")
        request = await self._api.param_serialize(
            _METHODS[verb],
            path,
            query_params=list(options.get("query", {}).items()),
            header_params={"Content-Type": content, "Accept": "application/json", **options.get("headers", {})},
            body=options.get("body"),
            auth_settings=["BearerToken"],
        )
        action, code = f"{verb} {path}", 0
        # Check last: preparing the request may have waited for a token, and a request that was sent cannot be recalled.
        if _METHODS[verb] != "GET" and not self._may_act():
            raise NotLeading(action)
        try:
            answer = await self._api.call_api(*request, _request_timeout=timeout)
            code = answer.status
        except _CONNECTION_ERRORS as error:
            raise _connection_failed(action, error) from error
        finally:
            self._counter.counted(verb, kind.plural, code)
        return answer


_LAST_REQUEST = {"Connection": "close"}
"""OpenSSL keeps as much memory per connection as its largest response took; in time, each would have carried a list."""
_METHODS = {"get": "GET", "list": "GET", "watch": "GET", "create": "POST", "update": "PUT", "patch": "PATCH"}


async def _lines(content: aiohttp.StreamReader) -> AsyncGenerator[bytes]:
    """Yield the lines of a response; an object may be longer than a line may be for readline()."""
    buffer = bytearray()
    async for chunk in content.iter_any():
        buffer += chunk
        *lines, rest = bytes(buffer).split(b"\n") if b"\n" in chunk else (buffer,)
        buffer = bytearray(rest)
        for line in lines:
            yield line


def _connection_failed(action: str, error: Exception) -> ClusterError:
    return ClusterError(action, code=0, reason=str(error) or type(error).__name__)


def _decoded(text: bytes, *, action: str, code: int) -> JsonObject:
    try:
        answer = cast("JsonObject", json.loads(text))
    except ValueError:
        raise ClusterError(action, code=code, reason=text[:200].decode(errors="replace")) from None
    if code >= 400:
        raise ClusterError(action, code=code, reason=str(answer.get("message") or answer.get("reason") or "refused"))
    return answer


async def _load_kubeconfig(loader: _Config) -> None:
    try:
        await loader.load_kube_config()
    except (config.ConfigException, yaml.YAMLError, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        # The library validates little, so an invalid file fails anywhere in it, with a Python error about its code.
        is_helpful = isinstance(error, config.ConfigException | yaml.YAMLError | OSError)
        cause = " ".join(str(error).split()) if is_helpful else "not a valid kubeconfig"
        reason = f"{cause}: run in a pod, or set KUBECONFIG to a file with a cluster"
        raise ClusterError("read the kubeconfig", code=0, reason=reason) from error


def _without_environment() -> client.Configuration:
    """Return the loaded configuration, for a session that ignores proxy variables and .netrc, as kopf's session does.

    Reading them for each request, in a thread, took a third of the operator's processor time.
    """
    chosen = client.Configuration.get_default_copy()
    chosen.client_session_kwargs = {"trust_env": False}
    return chosen


@asynccontextmanager
async def connected_cluster(counter: RequestCounter, *, field_manager: str, user_agent: str) -> AsyncGenerator[Cluster]:
    """Connect as the pod's service account, or by KUBECONFIG outside a cluster. Raises ClusterError.

    field_manager: the owner of applied fields. user_agent: the caller's name in the API server's audit log.
    """
    loader = cast("_Config", config)
    try:
        loader.load_incluster_config()
    except config.ConfigException:
        await _load_kubeconfig(loader)
    async with client.ApiClient(_without_environment()) as api:
        api.user_agent = user_agent
        yield Cluster(api, counter=counter, field_manager=field_manager)
