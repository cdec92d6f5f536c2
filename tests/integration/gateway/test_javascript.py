"""The official client in JavaScript, through the gateway, at a model that is at zero."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from testing.audio_files import JFK
from testing.gateway_process import GatewayProcess
from testing.kubelet_stand_in import Kubelet
from testing.live_model import LiveModel
from testing.pod_stand_in import PodServer

CLIENT = Path(__file__).with_name("openai_client.cjs")
MODULES = Path(__file__).parents[3] / ".tools" / "openai-js" / "node_modules"

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not MODULES.is_dir(), reason="no Node.js, or no client: make test-tools"
)


def loads_slowly(server: PodServer) -> None:
    server.load_seconds = 4.0


def test_stock_client_wakes_a_model_and_joins_its_job_when_it_times_out(
    gateway: GatewayProcess, at_zero: LiveModel, kubelet: Kubelet
) -> None:
    kubelet.prepare = loads_slowly
    command = ["node", str(CLIENT), gateway.url, "ana", "base", str(JFK)]
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, "NODE_PATH": str(MODULES)}
    )
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout)
    assert "base" in seen["models"]
    assert seen["tries"] > 1, "the client timed out and retried"
    assert seen["text"]
    assert "transcript.text.delta" in seen["events"]
    assert seen["events"][-1] == "transcript.text.done"
    assert seen["failure"] == {"status": 404, "code": "model-not-found"}
    with gateway.client() as client:
        jobs = client.get("/jobs").json()["jobs"]
    assert jobs[-1]["id"] == seen["job"], "the first request's job, whatever retry got its answer"
    assert len(jobs) == 2, "one for the answer and one for the stream, however often they were repeated"
