"""The documents say what the code does: metrics, routes, links, commands, and the names that they cite."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from fastapi.routing import APIRoute
from pydantic.alias_generators import to_camel

from benchmarks.report import BEGIN, END
from testing.documents import DOCS, commands
from testing.paths import ROOT
from whisper_inference.api.routes import execute, health, jobs, model, openai
from whisper_inference.api.routes import metrics as exposition
from whisper_inference.fleet.metrics import GatewayMetrics
from whisper_inference.lifecycle.processes import MemoryUsage
from whisper_inference.service.metrics import Gauges, Metrics
from whisper_inference.worker.resident import Resident
from whispermodel.spec import Spec
from whispermodel.states import State
from whispermodel.status import Status

README = ROOT / "README.md"
TEXTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *DOCS.glob("**/*.md")])

EXPECTED_METRICS = {
    "whisper_build_info": {"version"},
    "whisper_model_info": {"model", "engine", "device"},
    "whisper_model_state": {"state"},
    "whisper_model_loads_total": {"result", "trigger"},
    "whisper_model_unloads_total": {"reason", "depth"},
    "whisper_model_load_seconds": {"phase"},
    "whisper_model_unload_seconds": set[str](),
    "whisper_memory_bytes": {"process", "kind"},
    "whisper_gpu_memory_bytes": {"kind"},
    "whisper_memory_freed_bytes_total": {"kind"},
    "whisper_unload_residue_bytes": {"kind"},
    "whisper_last_activity_timestamp_seconds": set[str](),
    "whisper_jobs": {"status"},
    "whisper_jobs_in_flight": set[str](),
    "whisper_job_queue_seconds": set[str](),
    "whisper_job_duration_seconds": set[str](),
    "whisper_audio_seconds_total": set[str](),
    "whisper_realtime_factor": set[str](),
    "whisper_cold_start_seconds": {"path", "phase"},
    "whisper_worker_restarts_total": {"cause"},
    "whisper_http_request_duration_seconds": {"route", "method", "code"},
    "whisper_rejected_total": {"reason"},
    "whisper_gateway_pending": {"namespace", "whispermodel"},
    "whisper_gateway_pending_bytes": {"namespace", "whispermodel"},
    "whisper_gateway_oldest_pending_seconds": {"namespace", "whispermodel"},
    "whisper_gateway_wake_seconds": {"namespace", "whispermodel"},
    "whisper_gateway_wakes_total": {"namespace", "whispermodel", "result"},
    "whisper_gateway_forward_seconds": set[str](),
    "whisper_gateway_retries_total": {"cause"},
    "whisper_gateway_stored_bytes": set[str](),
    "whisper_gateway_stored_limit_bytes": set[str](),
}
"""Names and labels that dashboards and the operator rely on."""


def families() -> dict[str, tuple[str, set[str]]]:
    """Return the type and the labels of each metric that the server or the gateway exposes."""
    metrics = Metrics(version="0", model="base", engine="openai-whisper")
    gauges = Gauges(
        state=State.LOADED,
        device="cpu",
        memory=MemoryUsage(api=Resident()),
        gpu_reserved_bytes=0,
        last_activity=0.0,
        jobs={"queued": 0},
        in_flight=0,
    )
    # Private, but the only way to get the labels of a family without samples.
    registry = metrics._registry
    GatewayMetrics(registry)
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", metrics.exposition(gauges).decode(), flags=re.MULTILINE))
    collectors = registry._names_to_collectors
    return {name: (kind, set(getattr(collectors[name], "_labelnames"))) for name, kind in types.items()}  # noqa: B009


def documented() -> dict[str, tuple[str, set[str]]]:
    """Return the types and labels documented in docs/metrics.md."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \|", (DOCS / "metrics.md").read_text("utf-8"), flags=re.MULTILINE)
    return {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def routes() -> set[str]:
    """Return every route of the server, in the format of the headings."""
    routers = (health.router, model.router, jobs.router, openai.router, exposition.router, execute.router)
    every = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
    return {f"{method} {route.path}" for route in every for method in route.methods or ()}


def anchors(text: Path) -> set[str]:
    """Return the anchors of a page's headings, as forges make them."""
    headings = re.findall(r"^#+ (.+)$", text.read_text("utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code_names() -> set[str]:
    """Return the name of every function, class and constant of the product, and of every test."""
    names: set[str] = set()
    for path in [*ROOT.glob("*/src/**/*.py"), *(ROOT / "tests").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                    names.add(name)
                case ast.Name(id=name, ctx=ast.Store()):
                    names.add(name)
                case _:
                    pass
    return names


def rows(page: Path, heading: str) -> list[str]:
    """Return the names in the first column of the table with a heading, several of which may share a row."""
    table = page.read_text("utf-8").split(f"\n| {heading} |", 1)[1].split("\n\n", 1)[0]
    return re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in table.splitlines()[2:]))


def test_metrics_keep_their_names_and_labels() -> None:
    assert {name: labels for name, (_, labels) in families().items()} == EXPECTED_METRICS


def test_every_metric_is_documented_with_its_type_and_labels_and_no_other() -> None:
    assert documented() == families()


def test_example_queries_use_existing_metrics() -> None:
    text = (DOCS / "metrics.md").read_text("utf-8")
    queries = "\n".join(re.findall(r"```promql\n(.*?)```", text, flags=re.DOTALL))
    suffixes = re.compile(r"_(bucket|sum|count)$")
    named = {suffixes.sub("", name) for name in re.findall(r"\bwhisper_\w+", queries)}
    assert named <= set(families())
    assert len(named) > 5


def test_every_route_is_documented_and_no_other() -> None:
    headings = re.findall(r"^### `([A-Z]+ /\S*)`$", (DOCS / "api.md").read_text("utf-8"), flags=re.MULTILINE)
    assert set(headings) == {route.replace(":path}", "}") for route in routes()}
    assert len(headings) == len(set(headings))


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_point_to_existing_files(text: Path) -> None:
    links = re.findall(r"\]\((?!\w+://|#)([^)#]+)", text.read_text("utf-8"))
    assert [link for link in links if not (text.parent / link).exists()] == []


def test_the_benchmarks_page_has_markers_for_the_tables() -> None:
    before, _, after = (DOCS / "benchmarks.md").read_text("utf-8").partition(BEGIN)
    assert before
    assert after.count(END) == 1


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_anchors_point_to_existing_headings(text: Path) -> None:
    links = re.findall(r"\]\((?!\w+://)([^)#]*)#([^)]+)\)", text.read_text("utf-8"))
    assert [
        (page, anchor) for page, anchor in links if anchor not in anchors(text.parent / page if page else text)
    ] == []


def test_cited_tests_and_functions_exist() -> None:
    known, cited = code_names(), set[str]()
    for text in (DOCS / "planning.md", *(DOCS / "design").glob("*.md")):
        words = text.read_text("utf-8")
        cited |= set(re.findall(r"`([tT]est_?\w+)`", words))
        for code in re.findall(r"^\*Code:\*(.*?)\*Tests:\*", words, flags=re.MULTILINE | re.DOTALL):
            cited |= {name for dotted in re.findall(r"`([\w.]+)`", code) for name in dotted.split(".") if name != "py"}
    modules = {path.stem for path in ROOT.glob("*/src/**/*.py")}
    assert len(cited) > 100
    assert cited - known - modules == set()


def test_the_readme_can_be_read_in_a_minute() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 600


def test_the_readmes_commands_are_in_the_quickstart() -> None:
    with_an_example = [one.replace("examples/nightly-unload.yaml", "whispermodel.yaml") for one in commands(README)]
    assert len(with_an_example) > 6
    assert [one for one in with_an_example if one not in commands(DOCS / "quickstart.md")] == []


def test_the_readmes_transcript_is_in_the_quickstart() -> None:
    transcript = r"^\$ make demo\n(.*?)^```"
    short, long = (
        re.findall(transcript, page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)[0].splitlines()
        for page in (README, DOCS / "quickstart.md")
    )
    assert [line for line in short if line not in long] == []


def test_the_resources_fields_are_those_of_its_types() -> None:
    assert set(rows(DOCS / "api.md", "`spec`")) == {to_camel(name) for name in Spec.model_fields}
    assert set(rows(DOCS / "api.md", "`status`")) == {to_camel(name) for name in Status.model_fields}
