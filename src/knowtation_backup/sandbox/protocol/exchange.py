"""One HTTP request and one HTTP reply as plain values, for server, in-process transport and tests alike."""

from __future__ import annotations

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
        return next((value for key, value in self.headers if key == name), None)


@attrs.frozen(kw_only=True)
class HttpReply:
    """An answer; ``content-length`` is left to whoever sends it."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = attrs.field(default=b"", repr=False)


def plain_text(status: int, text: str, *, headers: tuple[tuple[str, str], ...] = ()) -> HttpReply:
    """Return a reply with a short text, as the network's own errors are."""
    return HttpReply(
        status=status, headers=(("content-type", "text/plain; charset=utf-8"), *headers), body=text.encode()
    )
