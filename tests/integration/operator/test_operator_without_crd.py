"""An operator whose CRD is deleted reports it, and exits with an error.

An API server of its own: WhisperModels are gone from it for good.
"""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from testing.api_server import HOW_TO_GET_THEM, binaries, running_api_server
from testing.child_process import WAIT_SECONDS
from testing.operator_process import OperatorProcess, eventually, grant_rights, running_operator


def test_deleted_crd_is_reported_once_and_ends_the_operator(tmp_path: Path) -> None:
    programs = binaries()
    if programs is None:
        pytest.skip(HOW_TO_GET_THEM)
    folder = tmp_path / "api-server"
    folder.mkdir()
    with running_api_server(folder, programs) as api:
        grant_rights(api)
        with running_operator(api, tmp_path, namespace=api.make_namespace("test")) as operator:
            eventually(lambda: _leads(operator), "it leads")
            api.kubectl("delete", "crd", "whispermodels.audio-transcriber.io")
            assert operator.process is not None
            assert operator.process.wait(WAIT_SECONDS) == 1
    lines = [json.loads(line) for line in operator.log.read_text().splitlines()]
    assert [line["reason"] for line in lines if line["event"] == "operator.ended"] == [
        "the cluster has no WhisperModels: kubectl apply -f crds/whispermodels.yaml"
    ]
    assert "Traceback" not in operator.log.read_text()


def _leads(operator: OperatorProcess) -> bool:
    try:
        return "whisper_operator_leader 1.0" in operator.metrics()
    except httpx.TransportError:
        return False
