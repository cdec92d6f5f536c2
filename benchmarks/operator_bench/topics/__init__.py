"""One module per topic; TOPICS lists them in run order."""

from __future__ import annotations

from benchmarks.operator_bench.topics import churn, day, many, minute
from benchmarks.run import Topic

_MODULES = (many, minute, churn, day)
TOPICS = tuple(Topic(module.NAME, module.TITLE, module.run) for module in _MODULES)
