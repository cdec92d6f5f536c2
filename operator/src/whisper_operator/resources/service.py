"""The headless Service of a WhisperModel, for the operator, the gateway and Prometheus."""

from __future__ import annotations

from pydantic import JsonValue

from whisper_cluster.names import SERVER_PORT
from whisper_operator.resources.identity import Identity


def service(identity: Identity) -> dict[str, JsonValue]:
    """Return the Service to apply."""
    port: JsonValue = {"name": "http", "port": SERVER_PORT, "targetPort": "http", "protocol": "TCP"}
    spec: dict[str, JsonValue] = {
        "clusterIP": "None",
        # A pod whose model is unloaded is ready; a pod that is starting must not be called.
        "publishNotReadyAddresses": False,
        "selector": identity.selector,
        "ports": [port],
    }
    return {"metadata": identity.metadata, "spec": spec}
