"""Demand Leases at a real API server: what wakes a model, and what lets it rest again."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from testing.api_server import ApiServer
from testing.documents import DOCS, commands, objects
from testing.live_model import LiveModel
from testing.operator_process import eventually
from testing.paths import ROOT

PAGE = DOCS / "waking.md"
EXAMPLE = ROOT / "examples" / "demand-lease.yaml"


def age(status: dict[str, str]) -> timedelta:
    """Return how long ago the model became idle, according to its status."""
    return datetime.now(UTC) - datetime.fromisoformat(status["idleSince"])


@pytest.mark.usefixtures("operator")
def test_model_stays_for_its_idle_time_after_the_lease_is_deleted(model: LiveModel) -> None:
    model.apply(idle={"unloadAfter": "10s", "scaleToZeroAfter": "1h"})
    model.demand(seconds=1, renewed=datetime.now(UTC) - timedelta(hours=1))
    model.wait_for(state="Zero")
    model.demand(seconds=600)
    model.wait_for(state="Loaded", reason="Demand")
    assert age(model.status) > timedelta(minutes=59), "the demand of an hour ago ended last"
    model.withdraw()
    status = eventually(lambda: model.status if "nextTransition" in model.status else None, "the demand has ended")
    assert age(status) < timedelta(seconds=10)
    assert (status["state"], status["target"]) == ("Loaded", "Loaded")
    status = model.wait_for(state="Unloaded", reason="Idle")
    assert age(status) >= timedelta(seconds=10)


@pytest.mark.usefixtures("operator")
def test_wake_takes_five_writes(model: LiveModel) -> None:
    model.apply(idle={"unloadAfter": "15m", "scaleToZeroAfter": "1h"})
    model.wait_for(state="Zero")
    before = writes(model)
    model.demand(seconds=600)
    model.wait_for(state="Loaded")
    model.wait_for_events("Waking", "Loaded")
    assert writes(model) - before == {"deployments": 1, "status": 2, "events": 2}


def writes(model: LiveModel) -> Counter[str]:
    """Return how often the operator has written each kind of object."""
    status = len(model.writes("whispermodels", subresource="status"))
    kinds = ("deployments", "services", "secrets", "events")
    return Counter(status=status, **{kind: len(model.writes(kind)) for kind in kinds})


def run(script: str, *, api: ApiServer, namespace: str, folder: Path) -> str:
    """Run commands in the repository's root, with kubectl in a namespace; return their output."""
    config = yaml.safe_load(api.kubeconfig().read_text())
    config["contexts"][0]["context"]["namespace"] = namespace
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "PATH": f"{api.programs}:{os.environ['PATH']}"}
    command = ["bash", "-euxo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.usefixtures("operator")
def test_commands_of_the_page_wake_the_example(model: LiveModel, tmp_path: Path) -> None:
    model.name = "idle-to-zero"
    script = "\n".join(commands(PAGE))
    run(script, api=model.api, namespace=model.namespace, folder=tmp_path)
    assert model.status["manual"]["state"] == "Loaded"
    model.wait_for_events("Waking", "Loaded")


@pytest.mark.usefixtures("operator")
def test_example_as_it_stands_has_expired(model: LiveModel, tmp_path: Path) -> None:
    model.name = "idle-to-zero"
    model.apply(idle={"scaleToZeroAfter": "1h"})
    run(f"kubectl apply -f {EXAMPLE}", api=model.api, namespace=model.namespace, folder=tmp_path)
    eventually(lambda: model.status.get("idleSince"), "the Lease was seen")
    assert (model.status["state"], model.pods()) == ("Zero", [])


@pytest.mark.parametrize(
    ("time", "accepted"),
    [
        pytest.param("2026-01-05T09:00:00.000000Z", True, id="six decimals"),
        pytest.param("2026-01-05T09:00:00.000000-03:00", True, id="an offset"),
        pytest.param("2026-01-05T09:00:00Z", False, id="none"),
        pytest.param("2026-01-05T09:00:00.000Z", False, id="three"),
    ],
)
def test_time_of_a_lease_has_six_decimals(api_server: ApiServer, namespace: str, time: str, accepted: bool) -> None:
    lease = yaml.safe_load(EXAMPLE.read_text())
    lease["spec"]["renewTime"] = time
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    assert api_server.client().post(path, json=lease).is_success is accepted


def test_rights_of_the_page_suffice(model: LiveModel, tmp_path: Path) -> None:
    [role] = objects(PAGE)
    role["metadata"]["namespace"] = model.namespace
    file = tmp_path / "role.json"
    file.write_text(json.dumps(role))
    user = f"{model.namespace}:batch"
    model.api.kubectl("apply", "-f", str(file))
    binding = ("rolebinding", "wake", "--role=wake-models", f"--serviceaccount={user}")
    model.api.kubectl("create", *binding, "-n", model.namespace)
    for verb in ("apply", "delete"):
        model.api.kubectl(verb, "-f", str(EXAMPLE), "-n", model.namespace, "--as", f"system:serviceaccount:{user}")
