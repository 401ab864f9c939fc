"""One HTTP request and one HTTP reply as plain values, for server, in-process transport and tests alike."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

__all__ = ["HttpReply", "HttpRequest", "plain_text"]


@attrs.frozen(kw_only=True)
class HttpRequest:
    """A request as it arrived; nothing in it is trusted."""

    method: str
    path: str
    """Path only, percent-encoding untouched."""
    query: str = ""
    """What follows the question mark."""
    headers: tuple[tuple[str, str], ...] = attrs.field(default=(), repr=False)
    """In order; names in lower case. May hold secrets."""
    body: bytes = attrs.field(default=b"", repr=False)

    def header(self, name: str) -> str | None:
        """Return the first value of a header, by its name in lower case."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


def _parts(body: bytes | Sequence[bytes]) -> tuple[bytes, ...]:
    return (body,) if isinstance(body, bytes) else tuple(body)


@attrs.frozen(kw_only=True)
class HttpReply:
    """An answer; ``content-length`` is left to whoever sends it."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    parts: tuple[bytes, ...] = attrs.field(default=b"", converter=_parts, alias="body", repr=False)
    """The body in pieces, so that a reply of megabytes need not be copied to be framed; given as ``body``."""

    @property
    def body(self) -> bytes:
        """The body in one piece."""
        return self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)

    @property
    def size_bytes(self) -> int:
        """Length of the body."""
        return sum(map(len, self.parts))


def plain_text(status: int, text: str, *, headers: tuple[tuple[str, str], ...] = ()) -> HttpReply:
    """Return a reply with a short text, as the network's own errors are."""
    return HttpReply(
        status=status, headers=(("content-type", "text/plain; charset=utf-8"), *headers), body=text.encode()
    )
