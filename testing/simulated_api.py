"""An API server in memory for the operator's client: objects, versions, and a callback for each change.

It supports what the operator uses: get, list, create, replace and server-side apply, and stores bodies as they are.
Tests of anything else need a real API server.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
_NOT_FOUND: Json = {"kind": "Status", "code": 404, "message": "not found"}


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response."""

    status: int
    body: bytes

    async def read(self) -> bytes:
        return self.body


@dataclass
class SimulatedApi:
    """Replaces the client's connection. on_change: called with the path, the object or None, and its last version."""

    on_change: Callable[[str, Json | None, Json], None]
    objects: dict[str, Json] = field(default_factory=dict[str, Json])
    requests: int = 0
    _versions: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    async def param_serialize(self, method: str, resource_path: str, **parameters: Any) -> tuple[object, ...]:
        return method, resource_path, parameters.get("body"), dict(parameters.get("query_params") or ())

    async def call_api(self, *request: Any, _request_timeout: float) -> Answer:
        self.requests += 1
        method, path, body, query = request
        # Copied through bytes, so that no part of an object is shared.
        found = self._list(path, query.get("labelSelector", "")) if method == "GET" else None
        text = json.dumps(found or self._answer(method, path, json.loads(json.dumps(body))))
        return Answer(404 if text == json.dumps(_NOT_FOUND) else 200, text.encode())

    def _answer(self, method: str, path: str, body: Json | None) -> Json:
        if method == "GET":
            return self.objects.get(path) or _NOT_FOUND
        assert body is not None
        if method == "POST":
            # Events are written and never read.
            return body if "/events" in path else self.put(f"{path}/{body['metadata']['name']}", body)
        whole, part, _ = path.partition("/status")
        known = self.objects.get(whole)
        return self.put(whole, {**known, "status": body["status"]} if part and known else _applied(known, body))

    def _list(self, path: str, selector: str) -> Json | None:
        """Return a list of objects; None: this is not the path of a collection."""
        if path.rpartition("/")[2] not in _PLURALS:
            return None
        found = [one for where, one in self.objects.items() if path in _collections_of(where)]
        return {"items": [one for one in found if _is_selected(one, selector)], "metadata": {}}

    def put(self, path: str, body: Json) -> Json:
        """Store an object under a new version, and report the change."""
        known = self.objects.get(path, {})
        before = known.get("metadata", {})
        moved = known.get("spec") != body.get("spec")
        body = copy.deepcopy(body)
        body["metadata"] |= {
            "uid": before.get("uid") or f"uid-{next(self._versions)}",
            "resourceVersion": str(next(self._versions)),
            "generation": before.get("generation", 0) + moved,
        }
        self.objects[path] = body
        self.on_change(path, body, body)
        return body

    def delete(self, path: str) -> None:
        """Delete an object, and report the change."""
        gone = self.objects.pop(path, None)
        if gone is not None:
            self.on_change(path, None, gone)


_PLURALS = frozenset({"whispermodels", "deployments", "services", "pods", "leases", "secrets"})


def _collections_of(path: str) -> tuple[str, str]:
    """Return the paths of all objects of a kind in one namespace, and in all of them."""
    collection = path.rpartition("/")[0]
    parts = collection.split("/")
    at = parts.index("namespaces")
    return collection, "/".join(parts[:at] + parts[at + 2 :])


def _is_selected(one: Json, selector: str) -> bool:
    """Return whether a selector `label` or `label=value`, or an empty one, selects an object."""
    label, _, value = selector.partition("=")
    found = one["metadata"].get("labels", {}).get(label)
    return not selector or (found == value if value else found is not None)


def _applied(known: Json | None, body: Json) -> Json:
    """Return the result of an apply: the status stays."""
    return {**body, **({"status": known["status"]} if known and "status" in known else {})}
