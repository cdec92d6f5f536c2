"""The table in testing/manifest_cases.py states what kubectl really does with the values."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from testing.manifest_cases import CASES, UNREADABLE
from testing.paths import ROOT

HEAD = "apiVersion: v1\nkind: Any\nmetadata: {name: it}\n"


@pytest.fixture(scope="module")
def kubectl() -> str:
    own = ROOT / ".tools" / "bin"
    found = shutil.which("kubectl", path=f"{os.environ.get('KUBEBUILDER_ASSETS', '')}:{own}:{os.environ['PATH']}")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("kubectl is needed: make tools")
        pytest.skip("no kubectl; 'make tools' gets it")
    return found


def read_by(kubectl: str, text: str) -> subprocess.CompletedProcess[str]:
    """Let kubectl patch the text without a cluster, and return the result."""
    command = [kubectl, "annotate", "--local", "-f", "-", "-o", "json", "was=read"]
    return subprocess.run(command, input=text, capture_output=True, text=True)


def test_kubectl_reads_each_value_as_expected(kubectl: str) -> None:
    readable = [(text, value) for text, value in CASES.items() if value is not UNREADABLE]
    fields = "".join(f"it{number}: {text}\n" for number, (text, _) in enumerate(readable))
    answer = read_by(kubectl, HEAD + fields)
    assert answer.returncode == 0, answer.stderr
    read = json.loads(answer.stdout)
    found = [(text, read[f"it{number}"]) for number, (text, _) in enumerate(readable)]
    assert [(*one, type(one[1])) for one in found] == [(*one, type(one[1])) for one in readable]


@pytest.mark.parametrize("text", [text for text, value in CASES.items() if value is UNREADABLE])
def test_kubectl_rejects_invalid_values(text: str, kubectl: str) -> None:
    assert read_by(kubectl, f"{HEAD}it: {text}\n").returncode != 0
