"""The API server, as JSON over the official client's connection. The only module that imports that client.

Everything is server-side apply under one field manager, so that what is left out of an apply is removed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass
from typing import Protocol, cast

import aiohttp
import yaml
from kubernetes.aio import client, config

from whisper_cluster.errors import ClusterError, CrdMissing, NotLeading

_REQUEST_SECONDS = 15.0
_PAGE = 250

JsonObject = dict[str, object]


@dataclass(frozen=True, slots=True)
class Kind:
    """Where objects of one kind are found. api: as in apiVersion."""

    api: str
    kind: str
    plural: str

    def path(self, namespace: str | None, name: str | None = None, *, subresource: str | None = None) -> str:
        """Return the path of a collection, an object or a part of it; namespace None: of all namespaces."""
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


class RequestCounter(Protocol):
    """Counts what is asked of the API server."""

    def counted(self, verb: str, resource: str, code: int) -> None:
        """Note one answer; code 0: none came."""
        ...


class _Answer(Protocol):
    status: int

    async def read(self) -> bytes: ...


class _Transport(Protocol):
    """What is used of the client, which declares no types."""

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

    async def call_api(self, *request: object, _request_timeout: float) -> _Answer: ...


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
        """Return this cluster with every write refused, by NotLeading, while `may_act` says no."""
        fenced = copy(self)
        fenced._may_act = may_act
        return fenced

    async def get(self, kind: Kind, namespace: str, name: str) -> JsonObject | None:
        """Return an object; None: there is none."""
        try:
            return await self._send("get", kind, kind.path(namespace, name))
        except ClusterError as error:
            if error.is_absence:
                return None
            raise

    async def list_all(self, kind: Kind, namespace: str | None, *, labels: str = "") -> AsyncGenerator[JsonObject]:
        """Yield all objects of a kind that carry the labels, page by page: all at once would take much memory."""
        page = {"limit": str(_PAGE), **({"labelSelector": labels} if labels else {})}
        while True:
            answer = await self._send("list", kind, kind.path(namespace), query=page)
            for one in cast("list[JsonObject]", answer.get("items") or []):
                yield one
            token = cast("JsonObject", answer.get("metadata") or {}).get("continue")
            if not token:
                return
            page["continue"] = str(token)

    async def apply(self, kind: Kind, body: Mapping[str, object], *, subresource: str | None = None) -> JsonObject:
        """Have an object be so, taking over the fields named; return it as it is now."""
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
        """Write a whole object, if it still has the resourceVersion given."""
        metadata = cast("JsonObject", body["metadata"])
        path = kind.path(str(metadata["namespace"]), str(metadata["name"]))
        return await self._send("update", kind, path, body={"apiVersion": kind.api, "kind": kind.kind, **body})

    async def require_crd(self) -> None:
        """Raise CrdMissing unless the cluster has the schema that this operator writes by."""
        path = f"/openapi/v3/apis/{WHISPER_MODELS.api}"
        try:
            schema = await self._send("get", WHISPER_MODELS, path)
        except ClusterError as error:
            if error.is_absence:
                raise CrdMissing("the cluster has no WhisperModels: kubectl apply -f crds/whispermodels.yaml") from None
            raise
        if '"specSince"' not in json.dumps(schema):
            # Server-side apply answers a field that the schema lacks with HTTP 500.
            raise CrdMissing("the cluster's CRD is older than the operator: kubectl apply -f crds/whispermodels.yaml")

    async def _send(
        self,
        verb: str,
        kind: Kind,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: JsonObject | None = None,
        content: str = "application/json",
    ) -> JsonObject:
        request = await self._api.param_serialize(
            _METHODS[verb],
            path,
            query_params=list((query or {}).items()),
            header_params={"Content-Type": content, "Accept": "application/json", **_HEADERS.get(verb, {})},
            body=body,
            auth_settings=["BearerToken"],
        )
        action, code = f"{verb} {path}", 0
        # Last of all: what was prepared may have waited for a token. What is on its way cannot be called back.
        if _METHODS[verb] != "GET" and not self._may_act():
            raise NotLeading(action)
        try:
            answer = await self._api.call_api(*request, _request_timeout=_REQUEST_SECONDS)
            code, text = answer.status, await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            raise ClusterError(action, code=0, reason=str(error) or type(error).__name__) from error
        finally:
            self._counter.counted(verb, kind.plural, code)
        return _decoded(text, action=action, code=code)


_HEADERS = {"list": {"Connection": "close"}}
"""OpenSSL keeps as much memory for a connection as its largest answer took; in time, all would have carried a list."""
_METHODS = {"get": "GET", "list": "GET", "create": "POST", "update": "PUT", "patch": "PATCH"}


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
        # The library checks little of what it reads, and fails as it comes: with Python's words on its own code.
        is_told = isinstance(error, config.ConfigException | yaml.YAMLError | OSError)
        what = " ".join(str(error).split()) if is_told else "this is no kubeconfig"
        reason = f"{what}: run in a pod, or set KUBECONFIG to a file that names a cluster"
        raise ClusterError("read the kubeconfig", code=0, reason=reason) from error


def _without_environment() -> client.Configuration:
    """Return what was loaded, for a session that looks for neither proxies nor .netrc: kopf's does not, either.

    It would do so for each request, in a thread, which took a third of the time of all that the operator does.
    """
    chosen = client.Configuration.get_default_copy()
    chosen.client_session_kwargs = {"trust_env": False}
    return chosen


@asynccontextmanager
async def connected_cluster(counter: RequestCounter, *, field_manager: str, user_agent: str) -> AsyncGenerator[Cluster]:
    """Connect as the pod's service account, or by KUBECONFIG outside of a cluster.

    field_manager: who owns the fields that are applied. user_agent: what the API server's audit log names the caller.
    """
    loader = cast("_Config", config)
    try:
        loader.load_incluster_config()
    except config.ConfigException:
        await _load_kubeconfig(loader)
    async with client.ApiClient(_without_environment()) as api:
        api.user_agent = user_agent
        yield Cluster(api, counter=counter, field_manager=field_manager)
