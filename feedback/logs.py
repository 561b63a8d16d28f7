"""The log of the gateway and of the processes beside it: text for people, or for programs one JSON object a line.

What a line says of an inference stands in fields of its own (`FIELDS`), given to the logger as `extra`.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

Form = Literal["text", "json"]
FIELDS = ("inference_id", "model", "version", "route", "status", "ms", "error")
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def configure(form: Form) -> None:
    """Write all that this process logs to standard error, in this form; takes the place of what was set before."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else TextLines(_TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)  # a line for each of its own parts


class JsonLines(logging.Formatter):
    """A JSON object a line: time (UTC), level, logger, message, then the fields that apply."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        return msgspec.json.encode(line).decode()


class TextLines(logging.Formatter):
    """The same for people: the fields follow the message as `name=value`."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        return super().formatMessage(record) + fields


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name in FIELDS if (value := record.__dict__.get(name)) is not None}
