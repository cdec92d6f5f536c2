"""Where a request's time went: Server-Timing (W3C), X-Cold-Start, and the metric of cold starts."""

from __future__ import annotations

import time

from whisper_inference.api.dependencies import Services
from whisper_inference.api.intake import Accepted


def job_headers(accepted: Accepted) -> dict[str, str]:
    """Return the headers by which a client finds its job again."""
    return {"Location": f"/jobs/{accepted.job.id}", "X-Job-Id": accepted.job.id}


async def timing_headers(services: Services, accepted: Accepted) -> dict[str, str]:
    """Return the headers of an answer to a finished job."""
    job = await services.jobs.get(accepted.job.id)
    phases = {"upload": accepted.upload_seconds}
    last_load = accepted.queue.model.facts().last_load
    waited = time.monotonic() - accepted.at
    if accepted.found is not None and last_load is not None and last_load.seconds_ago <= waited:
        receipt = last_load.receipt
        services.metrics.cold_start(accepted.found, {**receipt.phases, "total": receipt.seconds})
        phases["load"] = receipt.seconds
    if job.started_at and job.finished_at:
        phases["queue"] = max(0.0, (job.started_at - job.created_at).total_seconds())
        if accepted.queue.in_pods and accepted.found is not None:
            # The rest of the wait: until a pod was there.
            phases["wake"] = max(0.0, phases["queue"] - phases.get("load", 0.0))
        phases["transcribe"] = (job.finished_at - job.started_at).total_seconds()
    phases["total"] = time.monotonic() - accepted.at
    headers = {
        "Server-Timing": ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in phases.items()),
        **job_headers(accepted),
    }
    return headers | ({"X-Cold-Start": "true"} if accepted.found is not None else {})
