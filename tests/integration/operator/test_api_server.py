"""The API server of the tests enforces roles, and leaves no process behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

from testing.api_server import ApiServer
from testing.paths import ROOT

MODELS = "/apis/audio-transcriber.io/v1alpha1/namespaces/{}/whispermodels"
STARTED_THEN_SILENT = """
import sys, time
from pathlib import Path
from testing.api_server import running_api_server
with running_api_server(Path(sys.argv[1]), Path(sys.argv[2])):
    print("up", flush=True)
    time.sleep(600)
"""


def test_user_without_role_has_no_rights(api_server: ApiServer, namespace: str) -> None:
    answer = api_server.client("somebody").get(MODELS.format(namespace))
    assert answer.status_code == 403


def test_everything_ends_with_the_process_that_started_it(api_server: ApiServer, tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTED_THEN_SILENT, str(tmp_path), str(api_server.programs)]
    starter = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    with starter, starter.stdout:
        assert starter.stdout.readline() == "up\n"
        children = psutil.Process(starter.pid).children(recursive=True)
        starter.kill()
    assert len(children) == 2
    psutil.wait_procs(children, timeout=10)
    assert [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []
