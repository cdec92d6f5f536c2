"""The lines of the standard library's logging, in every process like those that structlog writes in the API process.

Without structlog: its import would come before each load from cold, and stay in the memory of every worker.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime


class JsonLine(logging.Formatter):
    """One JSON object a line, with the names that structlog gives: event, logger, level, timestamp, exception."""

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
    """JSON where a machine reads, text where a person does: warnings of the libraries, and what our own code tells."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s [%(levelname)s] %(message)s")
    handler.setFormatter(text if sys.stderr.isatty() else JsonLine())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("whisper_inference").setLevel(logging.INFO)
    logging.captureWarnings(True)
