"""What a node says about itself; nobody signs it."""

from __future__ import annotations

from typing import Final

import attrs

from .._transport import excerpt
from ..contracts import Clock
from .answers import http_refusal, malformed, outer_map
from .sending import Sender, Waiting

__all__ = ["NodeStatus", "read_status"]

_PATH: Final = "/api/v2/status"
_ROUTE: Final = "status"
_ROOT_KEY_START: Final = bytes.fromhex("308182301d060d2b0601040182dc7c0503010201060c2b0601040182dc7c05030201036100")
_ROOT_KEY_BYTES: Final = 133


@attrs.frozen(kw_only=True)
class NodeStatus:
    """
    A node's own description, believed by nobody: ``root_key`` is what an attacker would change.

    ``health`` is ``healthy`` on a node that works.
    """

    root_key: bytes | None = attrs.field(repr=False)
    impl_version: str
    impl_hash: str
    health: str
    certified_height: int | None

    def checked_root_key(self) -> bytes:
        """Return the root key; raises `CertificateError` when the node gave none of the right form."""
        key = self.root_key
        if key is None or len(key) != _ROOT_KEY_BYTES or not key.startswith(_ROOT_KEY_START):
            raise malformed(_ROUTE, "it holds no root key")
        return key


def read_status(sender: Sender, waiting: Waiting, *, clock: Clock) -> NodeStatus:
    """Ask the node once; see `Agent.status` for the errors."""
    answer = sender.get(_PATH, route=_ROUTE, waiting=waiting)
    if answer.status != 200:
        raise http_refusal(answer, now=clock())
    fields = outer_map(answer.body, route=_ROUTE)
    key, height = fields.get("root_key"), fields.get("certified_height")
    return NodeStatus(
        root_key=bytes(key) if isinstance(key, memoryview) else None,
        impl_version=_text(fields.get("impl_version")),
        impl_hash=_text(fields.get("impl_hash")),
        health=_text(fields.get("replica_health_status")),
        certified_height=height if isinstance(height, int) else None,
    )


def _text(value: object) -> str:
    return excerpt(value.encode()) if isinstance(value, str) else ""
