"""The operator as a process, with exactly the rights that the chart grants."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import yaml

from testing.api_server import ROOT, ApiServer, free_port
from testing.child_process import WAIT_SECONDS, ChildProcess

RULES = ROOT / "deploy" / "helm" / "whisper-operator" / "files" / "operator-rules.yaml"
RBAC = "/apis/rbac.authorization.k8s.io/v1"

Json = dict[str, Any]
T = TypeVar("T")


def leader_rules(lease: str) -> list[Json]:
    """Return the rules of the chart's Role for the leader election Lease."""
    leases = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"]}
    return [leases | {"resourceNames": [lease], "verbs": ["get", "update"]}, leases | {"verbs": ["create"]}]


def grant_rights(api: ApiServer, *, user: str = "operator") -> None:
    """Grant a user the operator's role in all namespaces."""
    grant_cluster_role(api, "whisper-operator", yaml.safe_load(RULES.read_text()), user=user)


def grant_cluster_role(api: ApiServer, name: str, rules: list[Json], *, user: str) -> None:
    """Grant a user a role in all namespaces."""
    _grant(api, "Cluster", RBAC, name, rules, user=user)


def grant_leadership(api: ApiServer, namespace: str, *, lease: str = "whisper-operator") -> None:
    """Grant the operator its leader election Lease."""
    _grant(api, "", f"{RBAC}/namespaces/{namespace}", f"{lease}-leader", leader_rules(lease), user="operator")


def _grant(api: ApiServer, scope: str, path: str, name: str, rules: list[Json], *, user: str) -> None:
    kind, plural = f"{scope}Role", f"{scope}Role".lower() + "s"
    head = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": name}}
    api.apply(f"{path}/{plural}/{name}", {**head, "kind": kind, "rules": rules})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
    subject = {"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}
    binding = {**head, "kind": f"{kind}Binding", "roleRef": role, "subjects": [subject]}
    api.apply(f"{path}/{kind.lower()}bindings/{name}", binding)


def eventually(look: Callable[[], T | None], what: str, *, seconds: float = WAIT_SECONDS) -> T:
    """Wait until `look` returns a truthy value and return it; fail with the last value."""
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s; seen last: {seen!r}"
        time.sleep(0.05)


def is_of_an_operator(event: Json, namespace: str) -> bool:
    """Return whether an operator wrote to the namespace, apart from the leader election Lease."""
    about = event["objectRef"]
    return (event["user"]["username"], about.get("namespace")) == ("operator", namespace) and (
        about["resource"] != "leases"
    )


@dataclass
class OperatorProcess(ChildProcess):
    """One replica, which can be killed and restarted."""

    api: ApiServer
    log: Path
    environment: dict[str, str]
    metrics_port: int = field(default_factory=free_port)
    health_port: int = field(default_factory=free_port)

    def start(self) -> None:
        environment = {
            **os.environ,
            "KUBECONFIG": str(self.api.kubeconfig("operator")),
            "WHISPER_OPERATOR_METRICS_PORT": str(self.metrics_port),
            "WHISPER_OPERATOR_HEALTH_PORT": str(self.health_port),
            "WHISPER_OPERATOR_LOG_FORMAT": "json",
            **self.environment,
        }
        self.spawn("whisper_operator", "run", environment=environment, log=self.log)

    def metrics(self) -> str:
        return httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics").text

    def health(self) -> int:
        return httpx.get(f"http://127.0.0.1:{self.health_port}/healthz").status_code


@contextmanager
def running_operator(api: ApiServer, folder: Path, *, namespace: str, **environment: str) -> Iterator[OperatorProcess]:
    """Run the operator for one namespace until the block ends; print its log for pytest's report."""
    given = {
        "WHISPER_OPERATOR_NAMESPACES": namespace,
        "WHISPER_OPERATOR_LEASE_NAMESPACE": namespace,
        **environment,
    }
    grant_leadership(api, given["WHISPER_OPERATOR_LEASE_NAMESPACE"])
    operator = OperatorProcess(api, folder / f"operator-{free_port()}.log", given)
    operator.start()
    try:
        yield operator
    finally:
        if operator.is_running:
            operator.stop(signal.SIGKILL)
        print(operator.log.read_text())
