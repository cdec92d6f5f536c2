"""The API keys of pods: which Secrets the operator creates, and which it leaves alone."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any, cast

import pytest

from whisper_cluster.api import Cluster, Kind
from whisper_cluster.errors import ClusterError
from whisper_cluster.names import MANAGED_BY, OPERATOR
from whisper_operator.reconcile.failures import refusal_of
from whisper_operator.reconcile.pod_keys import PodKeys
from whisper_operator.resources.keys_secret import keys_secret, operator_key

Json = dict[str, Any]
NAMESPACE = "speech"


class SecretsOnly:
    """A cluster with Secrets in some namespaces."""

    def __init__(self, **secrets: Json) -> None:
        self.there = secrets
        self.reads: list[str] = []

    async def get(self, kind: Kind, namespace: str, name: str) -> Json | None:
        self.reads.append(namespace)
        return self.there.get(namespace)

    async def apply(self, kind: Kind, body: Json) -> Json:
        self.there[body["metadata"]["namespace"]] = body
        return body


class KeysHarness:
    """The keys, and a clock."""

    def __init__(self, **secrets: Json) -> None:
        self.now = 1000.0
        self.secrets = SecretsOnly(**secrets)
        self.keys = PodKeys(cast("Cluster", self.secrets), clock=lambda: self.now)

    def ask(self, namespace: str = NAMESPACE) -> str:
        return asyncio.run(self.keys.key_for(namespace))


def secret(*, owner: str | None, **data: str) -> Json:
    labels = {MANAGED_BY: owner} if owner else None
    encoded = {name.replace("_", "."): base64.b64encode(text.encode()).decode() for name, text in data.items()}
    return {"metadata": {"name": "whisper-operator-keys", "namespace": NAMESPACE, "labels": labels}, "data": encoded}


def test_missing_secret_is_created() -> None:
    harness = KeysHarness()
    assert harness.ask() == operator_key(harness.secrets.there[NAMESPACE])


def test_incomplete_secret_of_the_operator_is_replaced() -> None:
    harness = KeysHarness(**{NAMESPACE: secret(owner=OPERATOR, operator="a")})
    assert harness.ask() == operator_key(harness.secrets.there[NAMESPACE])


@pytest.mark.parametrize("owner", [None, "Helm", "somebody"])
@pytest.mark.parametrize("file", ["[]", None], ids=["keys.yaml does not know the key", "no keys.yaml"])
def test_incomplete_foreign_secret_is_reported_and_left_unchanged(owner: str | None, file: str | None) -> None:
    there = secret(owner=owner, operator="a", client="b", **({"keys_yaml": file} if file else {}))
    harness = KeysHarness(**{NAMESPACE: json.loads(json.dumps(there))})
    with pytest.raises(ClusterError) as refused:
        harness.ask()
    assert harness.secrets.there[NAMESPACE] == there
    failure = refusal_of(refused.value)
    assert failure.reason == "NameTaken"
    assert failure.message == (
        "Secret 'whisper-operator-keys' belongs to somebody else and was left unchanged, but its entry 'keys.yaml' "
        "lacks the key in its entry 'operator': add the key, or delete the Secret, and the operator creates a new one."
    )


def test_complete_foreign_secret_is_used() -> None:
    there = cast("Json", keys_secret(NAMESPACE, operator="s3cret", client="cl1ent"))
    there["metadata"]["labels"] = {}
    assert KeysHarness(**{NAMESPACE: there}).ask() == "s3cret"


def test_replaced_secret_is_noticed_within_a_minute() -> None:
    harness = KeysHarness()
    harness.ask()
    harness.secrets.there[NAMESPACE] = secret(owner=None, operator="a")
    harness.now += 60
    with pytest.raises(ClusterError):
        harness.ask()


def test_unused_namespaces_are_forgotten() -> None:
    harness = KeysHarness()
    for number in range(3):
        harness.ask(f"passing-{number}")
    harness.now += 3600
    harness.ask("last")
    assert set(harness.keys._known) == set(harness.keys._read_at) == {"last"}


def test_used_namespace_is_kept() -> None:
    harness = KeysHarness()
    for _ in range(100):
        harness.ask()
        harness.now += 60
    harness.secrets.reads.clear()
    harness.ask("another")
    harness.now -= 60
    harness.ask()
    assert harness.secrets.reads == ["another"]
