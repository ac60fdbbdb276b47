"""Logs: one line per event, JSON or text, to standard error, each with the volume, pod and reference at hand.

Every value passes the redaction and loses its control characters; nothing else writes to the streams.
"""

import io
import logging
import os
import sys
from contextlib import suppress
from typing import Any, TextIO

import structlog

from csi_oras.errors import printable
from csi_oras.telemetry.secrets import redact

LONGEST_VALUE = 2000
"""Characters of one value in a log line."""

logger: structlog.stdlib.BoundLogger = structlog.get_logger()


class Unfailing(io.TextIOBase, TextIO):
    """Standard error for who must live on when nobody takes what he says: a disk is full, a pipe is closed."""

    def write(self, text: str, /) -> int:
        """Write, or do not."""
        with suppress(OSError):
            os.write(2, text.encode(errors="backslashreplace"))
        return len(text)


def configure(log_format: str, stream: TextIO | None = None, level: int = logging.INFO) -> None:
    """Send log lines to `stream` (standard error) as `json` or `text`; other libraries' warnings come along."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _clean,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=(stream or sys.stderr).isatty(), sort_keys=False)
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(stream or sys.stderr),
        cache_logger_on_first_use=False,
    )
    foreign = logging.StreamHandler(stream or sys.stderr)
    foreign.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared))
    logging.basicConfig(handlers=[foreign], level=logging.WARNING, force=True)


def _clean(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    traceback = event.pop("exception", None)
    cleaned = {
        key: printable(value, LONGEST_VALUE) if isinstance(value, str) else value
        for key, value in redact(event).items()
    }
    if isinstance(traceback, str):
        cleaned["exception"] = [printable(line, LONGEST_VALUE) for line in traceback.splitlines()]
    return cleaned
