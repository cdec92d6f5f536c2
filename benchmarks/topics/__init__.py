"""One module per topic; TOPICS lists them in run order."""

from __future__ import annotations

from benchmarks.run import Topic
from benchmarks.topics import (
    cold_load,
    cycles,
    first_result,
    liveness,
    load,
    load_large,
    long_audio,
    neighbour,
    startup,
    throughput,
    unload,
    upload,
)

_MODULES = (
    startup,
    load,
    cold_load,
    unload,
    cycles,
    first_result,
    throughput,
    neighbour,
    liveness,
    upload,
    long_audio,
    load_large,
)
TOPICS = tuple(Topic(module.NAME, module.TITLE, module.run) for module in _MODULES)
