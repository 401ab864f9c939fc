"""
The Candid side of the HTTP gateway: requests for ``http_request``, and what canisters answer.

A streaming token may be of any type; it is kept with the type it came with and handed back as such.

Source:
    HTTP gateway protocol, "Canister HTTP interface"; internet-computer reference, G.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import attrs

from .. import candid
from ..candid import CandidError
from .exchange import HttpRequest

__all__ = ["Response", "Token", "decode_chunk", "decode_response", "encode_query", "encode_update", "message_of"]

Token: TypeAlias = tuple[candid.CandidType, Any]
"""Type and value."""

_HEADERS: Final = candid.Vec(candid.Record({0: candid.TEXT, 1: candid.TEXT}))
_UPDATE_FIELDS: Final[Mapping[str, candid.CandidType]] = {
    "method": candid.TEXT,
    "url": candid.TEXT,
    "headers": _HEADERS,
    "body": candid.BLOB,
}
_UPDATE_REQUEST: Final = candid.Record(_UPDATE_FIELDS)
_QUERY_FIELDS: Final[Mapping[str, candid.CandidType]] = {
    **_UPDATE_FIELDS,
    "certificate_version": candid.Opt(candid.NAT16),
}
_QUERY_REQUEST: Final = candid.Record(_QUERY_FIELDS)
_RESPONSE_FIELDS: Final[Mapping[str, candid.CandidType]] = {
    "status_code": candid.NAT16,
    "headers": _HEADERS,
    "body": candid.BLOB,
    "upgrade": candid.Opt(candid.BOOL),
    "streaming_strategy": candid.Opt(candid.RESERVED),
}
_RESPONSE: Final = candid.Record(_RESPONSE_FIELDS)


@attrs.frozen(kw_only=True)
class Response:
    """A decoded answer of ``http_request``."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes = attrs.field(repr=False)
    upgrade: bool
    streaming: tuple[tuple[bytes, str], Token] | None
    """Callback (canister and method) and first token, or `None` when the body is complete."""

    def header(self, name: str) -> str | None:
        """Return the first value of a header, by its name in lower case."""
        return next((value for key, value in self.headers if key.lower() == name), None)


def encode_query(message: dict[str, Any]) -> bytes:
    """Return the argument of ``http_request``."""
    return candid.encode([_QUERY_REQUEST], [{**message, "certificate_version": 2}])


def encode_update(message: dict[str, Any]) -> bytes:
    """Return the argument of ``http_request_update``."""
    return candid.encode([_UPDATE_REQUEST], [message])


def message_of(request: HttpRequest) -> dict[str, Any]:
    """
    Return the fields of a request as canisters see them.

    Raises:
        CandidError: A header or the URL is not text.
    """
    headers = [(name.lower(), value) for name, value in request.headers if name.lower() != "x-request-id"]
    encodings = [value for name, value in headers if name == "accept-encoding"]
    headers = [header for header in headers if header[0] != "accept-encoding"]
    accepted = ", ".join(encodings)
    if "identity" not in accepted:
        accepted = f"{accepted}, identity" if accepted else "identity"
    headers.append(("accept-encoding", accepted))
    try:
        "".join(name + value for name, value in headers).encode()
        (request.path + request.query).encode()
    except UnicodeEncodeError as error:
        message = "headers and URL must be UTF-8"
        raise CandidError(message) from error
    return {
        "method": request.method.upper(),
        "url": f"{request.path}?{request.query}" if request.query else request.path,
        "headers": [{0: name, 1: value} for name, value in headers],
        "body": request.body,
    }


def decode_response(data: bytes) -> Response:
    """
    Read the answer of ``http_request`` or ``http_request_update``.

    Raises:
        CandidError: It is not of the documented form.
    """
    (fields,) = candid.decode(data, [_RESPONSE])
    if not 100 <= fields["status_code"] <= 999:
        message = f"{fields['status_code']} is not an HTTP status"
        raise CandidError(message)
    return Response(
        status=fields["status_code"],
        headers=tuple((header[0], header[1]) for header in fields["headers"]),
        body=fields["body"],
        upgrade=bool(fields["upgrade"]),
        streaming=_streaming(data, present=fields["streaming_strategy"] is not None),
    )


def _field_type(record: candid.CandidType | None, name: str) -> candid.CandidType | None:
    number = candid.field_id(name)
    if not isinstance(record, candid.Record | candid.Variant):
        return None
    return next((field.type for field in record.fields if field.id == number), None)


def _without_option(type_: candid.CandidType | None) -> candid.CandidType | None:
    return type_.inner if isinstance(type_, candid.Opt) else type_


def _streaming(data: bytes, *, present: bool) -> tuple[tuple[bytes, str], Token] | None:
    # The token is of any type, so only the types of the message itself can read it. Most responses have none.
    if not present and isinstance(_field_type(candid.wire_types(data)[0], "streaming_strategy"), candid.Opt | None):
        return None
    types, values = candid.decode_untyped(data)
    return _strategy(types[0], values[0])


def _strategy(type_: candid.CandidType, value: Any) -> tuple[tuple[bytes, str], Token] | None:
    variant = _without_option(_field_type(type_, "streaming_strategy"))
    chosen = value.get(candid.field_id("streaming_strategy"))
    if variant is None or chosen is None:
        return None
    content_type = _field_type(variant, "Callback")
    token_type = _field_type(content_type, "token")
    if (
        not isinstance(_field_type(content_type, "callback"), candid.Func)
        or token_type is None
        or chosen[0] != candid.field_id("Callback")
    ):
        message = "unknown streaming strategy"
        raise CandidError(message)
    return chosen[1][candid.field_id("callback")], (token_type, chosen[1][candid.field_id("token")])


def decode_chunk(data: bytes) -> tuple[bytes, Token | None]:
    """
    Read the answer of a streaming callback, ``callback_response`` or (older canisters) ``opt callback_response``.

    Returns:
        The body and the next token, `None` at the end.

    Raises:
        CandidError: It is not of the documented form.
    """
    types, values = candid.decode_untyped(data)
    type_ = _without_option(types[0] if types else None)
    if not isinstance(type_, candid.Record):
        message = "the answer is not a record"
        raise CandidError(message)
    if values[0] is None:
        return b"", None
    body = values[0].get(candid.field_id("body"))
    if not isinstance(body, bytes):
        message = "the answer has no body"
        raise CandidError(message)
    token = values[0].get(candid.field_id("token"))
    token_type = _without_option(_field_type(type_, "token"))
    if token is None or token_type is None:
        return body, None
    return body, (token_type, token.value if isinstance(token, candid.Some) else token)
