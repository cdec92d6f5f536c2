"""The objects of a release on a cluster."""

from __future__ import annotations

from typing import Any

from testing.api_server import ApiServer
from testing.operator_process import eventually

Json = dict[str, Any]
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/whispermodels.audio-transcriber.io"
MODELS = "/apis/audio-transcriber.io/v1alpha1/namespaces/{}/whispermodels"


def of_size(size: str, **metadata: object) -> Json:
    return {**metadata, "spec": {"model": {"size": size}}}


def declare(api: ApiServer, namespace: str, name: str) -> Json:
    """Apply a WhisperModel, as a user would."""
    served = MODELS.format(namespace)
    eventually(lambda: api.client().get(served).is_success, "WhisperModels are served")
    head = {"apiVersion": "audio-transcriber.io/v1alpha1", "kind": "WhisperModel", "metadata": {"name": name}}
    return api.apply(f"{served}/{name}", head | of_size("base"))


def models(api: ApiServer, namespace: str) -> dict[str, tuple[str, int]]:
    """Return the uid and generation of each WhisperModel in a namespace, by name."""
    every = api.client().get(MODELS.format(namespace)).json()["items"]
    return {one["metadata"]["name"]: (one["metadata"]["uid"], one["metadata"]["generation"]) for one in every}


def keys(api: ApiServer, namespace: str) -> Json:
    return api.client().get(f"/api/v1/namespaces/{namespace}/secrets/whisper-operator-keys").json().get("data", {})
