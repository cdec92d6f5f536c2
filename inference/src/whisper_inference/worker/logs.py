"""Formats the standard library's log records like the lines that structlog writes in the API process.

It does without structlog, whose import would delay every cold load and take memory in every worker.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime


class JsonLine(logging.Formatter):
    """Formats a record as one JSON object with structlog's keys: event, logger, level, timestamp, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "event": record.getMessage(),
            "logger": record.name,
            "level": record.levelname.lower(),
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def log_libraries_to_stderr() -> None:
    """Log the libraries' warnings and our own messages to stderr, as text on a terminal and as JSON otherwise."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s [%(levelname)s] %(message)s")
    handler.setFormatter(text if sys.stderr.isatty() else JsonLine())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("whisper_inference").setLevel(logging.INFO)
    logging.captureWarnings(True)
