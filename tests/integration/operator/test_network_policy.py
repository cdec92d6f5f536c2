"""The NetworkPolicy of a model at a real API server."""

from __future__ import annotations

import json
from pathlib import Path

from testing.api_server import ApiServer
from testing.live_model import LiveModel
from testing.operator_process import eventually, running_operator


def test_network_policy_allows_only_the_configured_peers(
    model: LiveModel, api_server: ApiServer, rights: None, tmp_path: Path
) -> None:
    path = f"/apis/networking.k8s.io/v1/namespaces/{model.namespace}/networkpolicies/{model.name}"
    peer = {"podSelector": {"matchLabels": {"app": "gateway"}}}

    def ingress() -> object:
        found = model.api.client().get(path)
        return found.json()["spec"]["ingress"] if found.is_success else None

    allowed = {"WHISPER_OPERATOR_ALLOW_FROM": json.dumps([peer])}
    with running_operator(api_server, tmp_path, namespace=model.namespace, **allowed):
        model.apply(desiredState="Unloaded")
        eventually(lambda: ingress() == [{"from": [peer]}], "the peer may come in")
        model.api.client().delete(path)
        eventually(lambda: ingress() == [{"from": [peer]}], "the policy is there again")
