"""Events as lines of the standard `logging` module, one line each, ready for people and for ``key=value`` parsers."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

import attrs

from ..model.events import Event

__all__ = ["LogObserver"]

_LEVELS: Mapping[str, int] = {
    "export.progress": logging.DEBUG,
    "hub.retry": logging.WARNING,
    "hub.raw_host": logging.WARNING,
    "export.tenant_failed": logging.ERROR,
}


@attrs.frozen(kw_only=True)
class LogObserver:
    """
    Writes every event to a logger the caller has configured; sets no level, handler or format itself.

    Lines are ``<event name> key=value …`` in the order of the event's fields; texts that hold anything but plain
    characters are quoted as JSON, so a tenant's id cannot forge a second line. The event itself is attached to the
    record as ``event`` for structured handlers.
    """

    logger: logging.Logger = attrs.field(factory=lambda: logging.getLogger("knowtation_backup"))
    levels: Mapping[str, int] = attrs.field(factory=dict)
    """Level by event name, over the defaults: progress is DEBUG, retries WARNING, failures ERROR, all else INFO."""

    def __call__(self, event: Event, /) -> None:
        """Log *event*."""
        level = self.levels.get(event.name, _LEVELS.get(event.name, logging.INFO))
        if self.logger.isEnabledFor(level):
            fields = " ".join(f"{name}={_shown(value)}" for name, value in event.fields.items())
            self.logger.log(level, "%s %s", event.name, fields, extra={"event": event})


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else str(value)
    if text and text.isprintable() and not set(text) & set(" \"'\\="):
        return text
    return json.dumps(text)
