"""Run a real Prometheus with the scrape jobs of the chart's monitors and the targets of a test."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from testing.api_server import ROOT, Program, free_port

CHART = ROOT / "deploy" / "helm" / "whisper-operator"
ALERTS = CHART / "files" / "alerts.yaml"
NEEDED = ("prometheus", "promtool")
HOW_TO_GET_THEM = "Prometheus is not installed: run 'make tools'"
SCRAPE_SECONDS = 1

Json = dict[str, Any]


def binaries() -> Path | None:
    """Return the folder of the programs, or None if they are not installed."""
    folder = ROOT / ".tools" / "bin"
    return folder if all(os.access(folder / name, os.X_OK) for name in NEEDED) else None


@dataclass
class Prometheus:
    """A running Prometheus. folder: holds its target files."""

    url: str
    folder: Path
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=f"{self.url}/api/v1", timeout=30, trust_env=False)

    def scrape(self, job: str, targets: Sequence[Json]) -> None:
        """Set the targets of a job, each with an address and labels."""
        new = self.folder / f"{job}.new"
        new.write_text(json.dumps([{"targets": [one["address"]], "labels": one["labels"]} for one in targets]))
        new.replace(self.folder / f"{job}.json")

    def ask(self, path: str, **query: Any) -> Any:
        """Return the data of a response; fail with Prometheus' error."""
        answer = self.client.get(path, params=query).json()
        assert answer["status"] == "success", f"{query}: {answer}"
        return answer["data"]

    def value(self, query: str) -> float:
        """Return the value of a query with one series, or 0 without any."""
        result = self.ask("query", query=query)["result"]
        return float(result[0]["value"][1]) if result else 0.0

    def serves(self) -> bool:
        try:
            return self.client.get(f"{self.url}/-/ready").is_success
        except httpx.TransportError:
            return False


@contextmanager
def running_prometheus(folder: Path, programs: Path, *, jobs: Mapping[str, Json]) -> Iterator[Prometheus]:
    """Run a Prometheus with the chart's alerts until the block ends. jobs: scrape configurations by name."""
    url = f"http://127.0.0.1:{free_port()}"
    prometheus = Prometheus(url, folder)
    for job in jobs:
        prometheus.scrape(job, [])
    rules = {"groups": yaml.safe_load(ALERTS.read_text())["groups"]}
    (folder / "alerts.yaml").write_text(yaml.safe_dump(rules))
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(_configuration(folder, jobs)))
    program = Program(_command(folder, programs, address=url.removeprefix("http://")), folder / "prometheus.log")
    program.start()
    try:
        program.wait_for(prometheus.serves, "Prometheus is ready")
        yield prometheus
    finally:
        prometheus.client.close()
        program.stop(signal.SIGKILL)


def _command(folder: Path, programs: Path, *, address: str) -> list[str]:
    return [
        str(programs / "prometheus"),
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]


def _configuration(folder: Path, jobs: Mapping[str, Json]) -> Json:
    """Return the configuration with file-based discovery for each job."""
    interval = f"{SCRAPE_SECONDS}s"
    every = [
        {"job_name": job, "file_sd_configs": [{"files": [str(folder / f"{job}.json")]}], **how}
        for job, how in jobs.items()
    ]
    times = {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval}
    return {"global": times, "rule_files": [str(folder / "alerts.yaml")], "scrape_configs": every}
