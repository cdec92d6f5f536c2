"""`make e2e`, `make cluster` and `make cluster-down`: which stories, which cluster, which images."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from e2e import __main__ as program
from e2e import quick_start
from tools.clusters import choice
from tools.clusters.base import ROOT, ProviderFailed
from tools.clusters.kind.cluster import KindCluster
from tools.clusters.local.cluster import LocalCluster


def collected(*arguments: str) -> str:
    """Return what pytest would run."""
    command = [*program.command_of(arguments), "--collect-only", "-q", "-p", "no:cacheprovider"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_a_choice_without_a_path_is_one_of_stories() -> None:
    assert set(re.findall(r"^(\S+?)/\S+::", collected("-k", "without_work"), flags=re.MULTILINE)) == {"e2e"}


@pytest.fixture
def kubeconfig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "kubeconfig"
    monkeypatch.setattr(choice, "KUBECONFIG", path)
    return path


@pytest.mark.parametrize("provider", [KindCluster, LocalCluster])
def test_the_cluster_that_is_up_is_taken_and_ended_whatever_else_could_run(
    kubeconfig: Path, provider: type[KindCluster | LocalCluster]
) -> None:
    kubeconfig.write_text(f"current-context: {provider.context}\n")
    assert isinstance(choice.provider_for_this_machine(), provider)


def test_a_machine_that_can_have_no_cluster_is_told_why(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KindCluster, "why_not", lambda self: "it needs docker")
    monkeypatch.setattr(LocalCluster, "why_not", lambda self: "it needs root")
    with pytest.raises(ProviderFailed, match=r"(?s)it needs docker.*it needs root.*KUBECONFIG"):
        choice.provider_for_this_machine()


@pytest.mark.parametrize(
    ("arguments", "images"),
    [
        pytest.param(["--up"], ["operator", "faster-tiny.en"], id="what the quick start needs"),
        pytest.param(
            ["--up", "openai-tiny.en"], ["operator", "faster-tiny.en", "openai-tiny.en"], id="and what is asked"
        ),
    ],
)
def test_a_cluster_to_try_gets_no_image_that_nobody_asked_for(
    monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str], images: Sequence[str]
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(program, "provider_for_this_machine", KindCluster)
    monkeypatch.setattr(KindCluster, "up", lambda self: None)
    monkeypatch.setattr(KindCluster, "load", lambda self, archives: None)
    monkeypatch.setattr(program, "build", lambda names, *, base: asked.extend(names) or {})
    assert program.main(arguments) == 0
    assert asked == images


def test_the_quick_start_leads_to_the_cluster_that_was_made_before_it_installs_anything() -> None:
    first, second, *_ = quick_start.commands(own=True).splitlines()
    assert first == "export KUBECONFIG=$PWD/var/e2e/kubeconfig PATH=$PWD/.tools/bin:$PATH"
    assert second.startswith("helm install ")


def test_in_somebody_s_own_cluster_the_quick_start_stays_there() -> None:
    assert "KUBECONFIG" not in quick_start.commands(own=False)
