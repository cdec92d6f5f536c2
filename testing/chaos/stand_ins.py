"""Stand-in pods for the chaos program: jobs that take long enough to be hit, with texts that name their job."""

from __future__ import annotations

from testing.pod_stand_in import PodServer

_SECTIONS = 3
_SECTION_SECONDS = 0.15


def slow_jobs(server: PodServer) -> None:
    """Prepare a stand-in."""
    server.execute.sections, server.execute.section_seconds = _SECTIONS, _SECTION_SECONDS


def text_of(job: str) -> str:
    """Return what a job's text must be: each section once, in order."""
    return " ".join(f"{job}{number}" for number in range(_SECTIONS))
