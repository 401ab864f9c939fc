"""What observers are told while an operation runs; never a secret, never tenant content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

__all__ = ["Event"]


@attrs.frozen(kw_only=True)
class Event:
    """
    One step of an operation.

    ``name`` is stable and dotted (``export.progress``, ``hub.retry``, ``backup.published``); the reference page
    lists all names with their fields. ``fields`` holds numbers, ids and short texts.
    """

    name: str
    fields: Mapping[str, Any] = attrs.field(factory=dict)
