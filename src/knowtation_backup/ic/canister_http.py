"""
The messages of canisters that speak HTTP: what a gateway sends to ``http_request``, and what comes back.

For callers that do without a gateway. Bodies are views into the reply, so that 2 MB of them cost nothing to take out;
streaming tokens, which may be of any type, are handed back as they came.

``http_request`` takes ``record {method: text; url: text; headers: vec record {text; text}; body: blob}``. The optional
``certificate_version`` is left out: it asks for a proof that a certified call makes unnecessary, and every byte costs.

Source:
    HTTP gateway protocol, "Canister HTTP interface".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import attrs

from ..errors import ExportError, SourceError
from .candid_types import BLOB, TEXT, Record, Vec, encode
from .candid_values import FuncValue, RawValue, VariantValue, decode, field, label
from .wire import Buffer

__all__ = [
    "CanisterResponse",
    "Streaming",
    "decode_http_response",
    "decode_streaming_chunk",
    "http_request_arg",
]

_HEADERS: Final = Vec(Record({0: TEXT, 1: TEXT}))
_REQUEST: Final = Record({"method": TEXT, "url": TEXT, "headers": _HEADERS, "body": BLOB})


def http_request_arg(method: str, url: str, headers: Iterable[tuple[str, str]], body: bytes = b"") -> bytes:
    """
    Return the argument of ``http_request`` and ``http_request_update``.

    These bytes are part of the format of evidence: what a question's nonce is made of, so that they must never change
    for the same request.

    Args:
        method: In upper case.
        url: Path and query, without host.
        headers: Names in lower case.
        body: Of the request.
    """
    pairs = [{0: name, 1: value} for name, value in headers]
    return encode(_REQUEST, {"method": method, "url": url, "headers": pairs, "body": body})


@attrs.frozen(kw_only=True)
class Streaming:
    """Where the rest of a body is: a query method of a canister, and what it is to be called with."""

    canister_id: bytes
    method: str
    arg: bytes = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class CanisterResponse:
    """What a canister answered; the body is a view into the reply."""

    status: int
    headers: tuple[tuple[str, str], ...] = attrs.field(repr=False)
    body: memoryview = attrs.field(repr=False)
    upgrade: bool
    """Whether the same request is to be made again as ``http_request_update``."""
    streaming: Streaming | None

    def header(self, name: str) -> str:
        """Return the first value of a header by its name in lower case, empty when there is none."""
        return next((value for key, value in self.headers if key.lower() == name), "")


def decode_http_response(reply: Buffer) -> CanisterResponse:
    """
    Read what ``http_request`` or ``http_request_update`` returned.

    Raises:
        ExportError: Kind ``bad_reply``: it is not of the documented form.
    """
    response = _decoded(reply)
    status, body, upgrade = (field(response, name) for name in ("status_code", "body", "upgrade"))
    if not isinstance(status, int) or not 100 <= status <= 999 or not isinstance(body, memoryview):
        raise _bad("it has no status or no body")
    headers = field(response, "headers")
    if not isinstance(headers, list):
        raise _bad("it has no headers")
    pairs = tuple((field(header, 0), field(header, 1)) for header in headers)
    if not all(isinstance(text, str) for pair in pairs for text in pair):
        raise _bad("its headers are not pairs of texts")
    if upgrade is not None and not isinstance(upgrade, bool):
        raise _bad("upgrade is not a truth value")
    return CanisterResponse(
        status=status,
        headers=pairs,
        body=body,
        upgrade=bool(upgrade),
        streaming=_streaming(field(response, "streaming_strategy")),
    )


def decode_streaming_chunk(reply: Buffer) -> tuple[memoryview, bytes | None]:
    """
    Read what a streaming callback returned, ``callback_response`` or (older canisters) ``opt callback_response``.

    Returns:
        The body, and the argument of the next call or `None` when this was the last.

    Raises:
        ExportError: Kind ``bad_reply``: it is not of the documented form.
    """
    chunk = _decoded(reply)
    if chunk is None:
        return memoryview(b""), None
    body, token = field(chunk, "body"), field(chunk, "token")
    if not isinstance(body, memoryview) or not isinstance(token, RawValue | None):
        raise _bad("the streaming callback returned no body")
    return body, None if token is None else token.message()


def _decoded(reply: Buffer) -> Any:
    """Return the value of a message, which has one at least; its streaming tokens are kept raw."""
    try:
        values = decode(reply, raw=("token",))
    except SourceError as error:
        raise _bad(error.message) from error
    if not values:
        raise _bad("it holds no value")
    return values[0]


def _streaming(strategy: Any) -> Streaming | None:
    if strategy is None:
        return None
    if isinstance(strategy, VariantValue) and strategy.number == label("Callback"):
        function, token = field(strategy.value, "callback"), field(strategy.value, "token")
        if isinstance(function, FuncValue) and isinstance(token, RawValue):
            return Streaming(canister_id=function.service.raw, method=function.method, arg=token.message())
    raise _bad("its streaming strategy is unknown")


def _bad(reason: str) -> ExportError:
    hint = "check the canister id: is it a canister that serves HTTP?"
    return ExportError(f"a canister's HTTP response is not as documented: {reason}", kind="bad_reply", hint=hint)
