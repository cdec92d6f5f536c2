"""One module per topic; TOPICS lists them in run order."""

from __future__ import annotations

from benchmarks.gateway_bench.topics import cold, memory, peers, reads, upload, wake, warm
from benchmarks.run import Topic

_MODULES = (warm, reads, upload, wake, cold, memory, peers)
TOPICS = tuple(Topic(module.NAME, module.TITLE, module.run) for module in _MODULES)
