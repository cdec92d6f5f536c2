"""When a model's idle time begins, and when it is over.

A model is idle while no job runs or waits, no upload is in progress, and nobody waits for a load. Idle time begins when
the last work ended (`active_at`) or, if later, when the state last changed: a model that was just loaded manually is
kept for the whole time too.
"""

from __future__ import annotations

from whisper_inference.lifecycle.machine import Lifecycle, Policy


def is_idle(lifecycle: Lifecycle) -> bool:
    """Return whether nothing runs, waits or is being uploaded, and nobody waits for a load."""
    return lifecycle.running is None and not lifecycle.wanted and not lifecycle.loaders


def idle_time_ends(lifecycle: Lifecycle, policy: Policy) -> float | None:
    """Return when the idle time is over; None if the model is not idle, or never unloads by itself."""
    if policy.unload_after is None or not is_idle(lifecycle):
        return None
    return max(lifecycle.active_at, lifecycle.changed_at) + policy.unload_after


def is_idle_time_over(lifecycle: Lifecycle, policy: Policy, *, now: float) -> bool:
    """Return whether the model has been idle for long enough to be unloaded."""
    end = idle_time_ends(lifecycle, policy)
    return end is not None and now >= end


def seconds_since_work(lifecycle: Lifecycle, *, now: float) -> float:
    """Return the idle seconds as status reports them, from the end of the last work; 0 while some is running."""
    return 0.0 if lifecycle.running is not None else max(0.0, now - lifecycle.active_at)
