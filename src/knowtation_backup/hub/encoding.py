"""Putting secrets, ids and paths into HTTP headers and URLs without changing them."""

from __future__ import annotations

from urllib.parse import quote

from ..errors import ConfigurationError, ExportError

__all__ = ["encode_segment", "secret_text", "tenant_headers"]

_UNRESERVED = "!~*'()"
"""With letters, digits, ``-._~`` what JavaScript's ``encodeURIComponent`` leaves alone."""


def secret_text(value: str | None, name: str) -> str | None:
    """Return a secret fit for a header; the error never repeats it."""
    if value is None:
        return None
    value = value.strip()
    if not value:
        raise ConfigurationError(f"{name} is blank; pass None to do without", kind="bad_secret")
    if not value.isprintable() or not _is_latin1(value):
        raise ConfigurationError(f"{name} holds characters that no HTTP header can carry", kind="bad_secret")
    return value


def _is_latin1(text: str) -> bool:
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


def tenant_headers(user_id: str, vault_id: str | None = None) -> list[tuple[bytes, bytes]]:
    """Return the headers that name a tenant, and a vault when one is given; raises `ExportError` for unsendable ids."""
    headers = [(b"X-User-Id", _header_value(user_id, "tenant"))]
    if vault_id is not None:
        headers.append((b"X-Vault-Id", _header_value(vault_id, "vault")))
    return headers


def _header_value(text: str, what: str) -> bytes:
    """
    Return an id as header bytes.

    Ids that would arrive changed are refused: the hub would answer for another tenant, and nobody would notice.
    """
    if text and text == text.strip() and _is_latin1(text) and not any(c < " " or "\x7f" <= c < "\xa0" for c in text):
        return text.encode("latin-1")
    message = f"{what} id {text[:100]!r} cannot be sent unchanged in an HTTP header"
    hint = "ids must be Latin-1 text without control characters or surrounding white space; use a canister snapshot"
    raise ExportError(message, kind="id_not_sendable", hint=hint)


def encode_segment(text: str) -> str:
    """Return one path segment, encoded as JavaScript's ``encodeURIComponent`` does."""
    if text in {".", ".."}:  # as they are, URL parsers would resolve them
        return text.replace(".", "%2E")
    try:
        return quote(text, safe=_UNRESERVED)
    except UnicodeEncodeError:
        raise ExportError("an id or path with a lone surrogate cannot be asked for", kind="id_not_sendable") from None
