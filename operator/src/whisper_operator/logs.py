"""Logging: one line per decision, JSON in a cluster and text on a terminal, for kopf and other libraries as well."""

from __future__ import annotations

import logging
import sys

import structlog


def configure_logs(*, json: bool, level: str) -> None:
    """Log everything to standard error."""
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        stamp,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=_last(json=json)))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # These log every request; our own lines say what was decided.
    for noisy in ("kopf.objects", "kopf.activities", "aiohttp.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for loud in ("kopf._core.reactor.orchestration", "kopf._core.reactor.running"):
        logging.getLogger(loud).addFilter(_without_traceback)


def _without_traceback(record: logging.LogRecord) -> bool:
    """Drop the traceback of an error from kopf or aiohttp: its message says enough."""
    if record.exc_info and type(record.exc_info[1]).__module__.startswith(("kopf.", "aiohttp.")):
        record.exc_info = None
    return True


def _last(*, json: bool) -> list[structlog.typing.Processor]:
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if json:
        return [remove, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return [remove, structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
