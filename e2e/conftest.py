"""Fixtures for the cluster and its releases, and diagnostics for failed tests."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from e2e import evidence, starts
from e2e.cluster import Cluster, connected, pinned
from e2e.model import Model
from e2e.release import Release, Releases
from tools.clusters.base import KUBECONFIG, ProviderFailed
from tools.images import reference

_kubeconfig = pytest.StashKey[Path]()
_cluster = pytest.StashKey[Cluster]()
_starts = pytest.StashKey[dict[str, float]]()

WITH_WEIGHTS = reference("faster-tiny.en")
"""The default image for models: small, and with weights."""


def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse a cluster that is not for tests before collecting anything, and pin the one that is."""
    if session.config.option.collectonly:
        return
    named = os.environ.get("KUBECONFIG")
    if not named and not KUBECONFIG.exists():
        pytest.exit("no cluster to run the tests on: run 'make e2e', which starts one, or set KUBECONFIG", 2)
    folder = tempfile.TemporaryDirectory(prefix="whisper-e2e-")
    session.config.add_cleanup(folder.cleanup)
    try:
        session.stash[_kubeconfig] = pinned(named or str(KUBECONFIG), Path(folder.name))
    except (PermissionError, ProviderFailed) as refusal:
        pytest.exit(str(refusal), 2)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Collect diagnostics of a failure before the test's objects are deleted."""
    report = yield
    cluster = item.session.stash.get(_cluster, None)
    if report.passed and call.when == "call" and cluster is not None:
        item.config.stash.setdefault(_starts, {}).update(starts.seen(cluster))
    if report.failed and call.when != "teardown" and cluster is not None:
        folder = evidence.folder_of(item.nodeid)
        evidence.collect(cluster, folder)
        report.sections.append(("evidence", f"logs, events, objects and metrics: {folder}"))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Report how long pods took to start, for information only."""
    if took := config.stash.get(_starts, None):
        terminalreporter.write_line(starts.report(took))


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster that was current in KUBECONFIG at the start of the session."""
    evidence.forget()
    with connected(request.session.stash[_kubeconfig], tmp_path_factory.mktemp("kubectl")) as found:
        request.session.stash[_cluster] = found
        yield found


@pytest.fixture(scope="session")
def releases(cluster: Cluster) -> Iterator[Releases]:
    """The releases of the chart in the cluster, all uninstalled at the end."""
    image = {"repository": WITH_WEIGHTS.rpartition(":")[0], "tag": WITH_WEIGHTS.rpartition(":")[2]}
    made = Releases(cluster, {"inference": {"image": image}})
    yield made
    made.clear()


@pytest.fixture
def release(releases: Releases) -> Release:
    """The shared release, which manages all namespaces."""
    return releases.shared()


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace for one test."""
    name = cluster.make_namespace(f"story-{secrets.token_hex(3)}")
    yield name
    cluster.delete_namespace(name)


@pytest.fixture
def make_model(cluster: Cluster, namespace: str, release: Release) -> Callable[[str], Model]:
    """Return a factory for models in the test's namespace, managed by the shared release."""
    return lambda name: Model(cluster, namespace, name)


@pytest.fixture
def model(make_model: Callable[[str], Model]) -> Model:
    """A model in the test's namespace, not yet applied."""
    return make_model("dictation")
