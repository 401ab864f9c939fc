"""
The messages of canisters that speak HTTP: what a gateway sends to ``http_request``, and what comes back.

For callers that do without a gateway. Bodies are views into the reply, so that 2 MB of them cost nothing to take out;
types are read from the message itself, since a streaming token may be of any.

``http_request`` takes ``record {method: text; url: text; headers: vec record {text; text}; body: blob}``. The optional
``certificate_version`` is left out: it asks for a proof that a certified call makes unnecessary, and every byte costs.

Source:
    HTTP gateway protocol, "Canister HTTP interface"; Candid specification, "Binary format".
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

import attrs

from ..errors import ExportError

__all__ = [
    "CanisterResponse",
    "Streaming",
    "decode_http_response",
    "decode_streaming_chunk",
    "http_request_arg",
]

_MAGIC: Final = b"DIDL"
_MAX_TYPES: Final = 1000
_MAX_DEPTH: Final = 64
_MAX_EMPTY_ELEMENTS: Final = 10_000
"""Elements without bytes all lists of a message may have; their number alone could cost any amount of time."""

_NULL, _BOOL, _NAT, _INT, _TEXT, _RESERVED, _PRINCIPAL = -1, -2, -3, -4, -15, -16, -24
_OPT, _VEC, _RECORD, _VARIANT, _FUNC, _SERVICE = -18, -19, -20, -21, -22, -23
_NAT8: Final = -5
_FIXED: Final = {-5: 1, -6: 2, -7: 4, -8: 8, -9: 1, -10: 2, -11: 4, -12: 8, -13: 4, -14: 8}
"""Bytes of numbers: nat8 to nat64, int8 to int64, float32 and float64."""
_REFERENCE: Final = 1


def _leb(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def _field(name: str) -> int:
    number = 0
    for byte in name.encode():
        number = (number * 223 + byte) % 2**32
    return number


_METHOD, _URL, _HEADERS, _BODY = map(_field, ("method", "url", "headers", "body"))
_STATUS, _UPGRADE, _STRATEGY = map(_field, ("status_code", "upgrade", "streaming_strategy"))
_CALLBACK, _FUNCTION, _TOKEN = map(_field, ("Callback", "callback", "token"))

_ORDER: Final = tuple(sorted((_METHOD, _URL, _HEADERS, _BODY)))
_TEXT_CODE, _NAT8_CODE, _VEC_CODE, _RECORD_CODE = b"\x71", b"\x7b", b"\x6d", b"\x6c"
_REQUEST_TYPES: Final = {_METHOD: _TEXT_CODE, _URL: _TEXT_CODE, _HEADERS: b"\x02", _BODY: b"\x01"}
_REQUEST_HEAD: Final = b"".join(
    (
        _MAGIC,
        b"\x04",  # type 0 the request, 1 its body, 2 its headers, 3 one of them
        _RECORD_CODE + _leb(len(_ORDER)) + b"".join(_leb(number) + _REQUEST_TYPES[number] for number in _ORDER),
        _VEC_CODE + _NAT8_CODE,
        _VEC_CODE + b"\x03",
        _RECORD_CODE + b"\x02\x00" + _TEXT_CODE + b"\x01" + _TEXT_CODE,
        b"\x01\x00",
    )
)


def http_request_arg(method: str, url: str, headers: Iterable[tuple[str, str]], body: bytes = b"") -> bytes:
    """
    Return the argument of ``http_request`` and ``http_request_update``; the same for the same request.

    Args:
        method: In upper case.
        url: Path and query, without host.
        headers: Names in lower case.
        body: Of the request.
    """
    pairs = tuple(headers)
    parts = {
        _METHOD: _text(method),
        _URL: _text(url),
        _HEADERS: _leb(len(pairs)) + b"".join(_text(name) + _text(value) for name, value in pairs),
        _BODY: _leb(len(body)) + body,
    }
    return _REQUEST_HEAD + b"".join(parts[number] for number in _ORDER)


def _text(value: str) -> bytes:
    data = value.encode()
    return _leb(len(data)) + data


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


def decode_http_response(reply: bytes | memoryview) -> CanisterResponse:
    """
    Read what ``http_request`` or ``http_request_update`` returned.

    Raises:
        ExportError: Kind ``bad_reply``: it is not of the documented form.
    """
    message = _Message(reply)
    fields = message.record(message.argument())
    status, headers, body = fields.get(_STATUS), fields.get(_HEADERS), fields.get(_BODY)
    upgrade = fields.get(_UPGRADE)
    if not isinstance(status, int) or not 100 <= status <= 999 or not isinstance(body, memoryview):
        raise _bad("it has no status or no body")
    if not isinstance(headers, list) or not all(_is_header(header) for header in headers):
        raise _bad("its headers are not pairs of texts")
    if upgrade is not None and not isinstance(upgrade, bool):
        raise _bad("upgrade is not a truth value")
    return CanisterResponse(
        status=status,
        headers=tuple((header[0], header[1]) for header in headers),
        body=body,
        upgrade=bool(upgrade),
        streaming=message.streaming(fields.get(_STRATEGY)),
    )


def decode_streaming_chunk(reply: bytes | memoryview) -> tuple[memoryview, bytes | None]:
    """
    Read what a streaming callback returned, ``callback_response`` or (older canisters) ``opt callback_response``.

    Returns:
        The body, and the argument of the next call or `None` when this was the last.

    Raises:
        ExportError: Kind ``bad_reply``: it is not of the documented form.
    """
    message = _Message(reply)
    fields = message.record(message.argument(), optional=True)
    if fields is _NOTHING:
        return memoryview(b""), None
    body, token = fields.get(_BODY), fields.get(_TOKEN)
    if not isinstance(body, memoryview) or not isinstance(token, _Raw | None):
        raise _bad("the streaming callback returned no body")
    return body, None if token is None else message.argument_of(token)


def _is_header(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(number), str) for number in (0, 1))


def _bad(reason: str) -> ExportError:
    hint = "check the canister id: is it a canister that serves HTTP?"
    return ExportError(f"a canister's HTTP response is not as documented: {reason}", kind="bad_reply", hint=hint)


_Type: TypeAlias = int
"""An index into the message's table, or the negative code of a primitive type."""


@attrs.frozen
class _Composite:
    code: int
    inner: _Type = _NULL
    fields: Sequence[tuple[int, _Type]] = ()


@attrs.frozen
class _Raw:
    """A value that is only handed back: its type and its bytes."""

    type: _Type
    data: memoryview


_NOTHING: Final[dict[int, Any]] = {}


class _Message:
    """One Candid message with one argument."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data).toreadonly()
        self._at = 0
        self._empty = 0
        self._table: list[_Composite] = []
        if bytes(self._take(len(_MAGIC))) != _MAGIC:
            raise _bad("it is not Candid")
        self._read_table()
        self._table_end = self._at

    def argument(self) -> _Type:
        """Return the type of the one argument; its value comes next."""
        types = [self._integer() for _ in range(self._bounded())]
        if not types:
            raise _bad("it holds no value")
        return types[0]

    def argument_of(self, value: _Raw) -> bytes:
        """Return a message of its own with *value*, under the type it came with."""
        return b"".join((self._data[: self._table_end], b"\x01", _signed(value.type), value.data))

    def record(self, type_: _Type, *, optional: bool = False) -> dict[int, Any]:
        """Return the fields of the record that comes next, with tokens raw; those of an empty option are `_NOTHING`."""
        composite = self._composite(type_)
        if optional and composite is not None and composite.code == _OPT:
            if not self._flag():
                return _NOTHING
            composite = self._composite(composite.inner)
        if composite is None or composite.code != _RECORD:
            raise _bad("it is not a record")
        return {number: self._field(number, inner, 0) for number, inner in composite.fields}

    def streaming(self, strategy: Any) -> Streaming | None:
        """Return the decoded strategy of a response."""
        if strategy is None:
            return None
        if not isinstance(strategy, tuple) or strategy[0] != _CALLBACK or not isinstance(strategy[1], dict):
            raise _bad("its streaming strategy is unknown")
        function, token = strategy[1].get(_FUNCTION), strategy[1].get(_TOKEN)
        if not isinstance(function, _Function) or not isinstance(token, _Raw):
            raise _bad("its streaming strategy is unknown")
        return Streaming(canister_id=function.canister_id, method=function.method, arg=self.argument_of(token))

    def _field(self, number: int, type_: _Type, depth: int) -> Any:
        if number != _TOKEN:
            return self._value(type_, depth + 1)
        composite = self._composite(type_)
        if composite is not None and composite.code == _OPT:  # the callback takes the token itself
            if not self._flag():
                return None
            type_ = composite.inner
        start = self._at
        self._value(type_, depth + 1)
        return _Raw(type_, self._data[start : self._at])

    # The table of types

    def _read_table(self) -> None:
        count = self._number()
        if count > _MAX_TYPES:
            raise _bad(f"it declares {count} types")
        for _ in range(count):
            code = self._integer()
            if code in (_OPT, _VEC):
                self._table.append(_Composite(code, inner=self._integer()))
            elif code in (_RECORD, _VARIANT):
                pairs = [(self._number(), self._integer()) for _ in range(self._bounded())]
                if any(low[0] >= high[0] for low, high in itertools.pairwise(pairs)):
                    raise _bad("its fields are not in order")
                self._table.append(_Composite(code, fields=tuple(pairs)))
            else:
                self._skip_reference_type(code)
                self._table.append(_Composite(code))

    def _skip_reference_type(self, code: int) -> None:
        if code == _FUNC:
            for _ in range(2):  # arguments, results
                for _ in range(self._bounded()):
                    self._integer()
            self._take(self._bounded())
        elif code == _SERVICE:
            for _ in range(self._bounded()):
                self._take(self._bounded())
                self._integer()
        else:
            raise _bad(f"it declares a type of kind {code}")

    def _composite(self, type_: _Type) -> _Composite | None:
        if type_ < 0:
            return None
        if type_ >= len(self._table):
            raise _bad("it refers to a type that it does not declare")
        return self._table[type_]

    # Values

    def _value(self, type_: _Type, depth: int) -> Any:  # noqa: PLR0911 - one branch per kind of type
        if depth > _MAX_DEPTH:
            raise _bad("it is nested too deeply")
        composite = self._composite(type_)
        if composite is None:
            return self._primitive(type_)
        match composite.code:
            case code if code == _OPT:
                return self._value(composite.inner, depth + 1) if self._flag() else None
            case code if code == _VEC:
                return self._vector(composite.inner, depth + 1)
            case code if code == _RECORD:
                return {number: self._field(number, inner, depth) for number, inner in composite.fields}
            case code if code == _VARIANT:
                index = self._number()
                if index >= len(composite.fields):
                    raise _bad("a variant has no such case")
                number, inner = composite.fields[index]
                return number, self._value(inner, depth + 1)
            case code if code == _FUNC:
                if self._take(1)[0] != _REFERENCE:
                    raise _bad("a function is opaque")
                canister_id = self._primitive(_PRINCIPAL)
                return _Function(canister_id, self._primitive(_TEXT))
            case _:
                return self._primitive(_PRINCIPAL)

    def _vector(self, inner: _Type, depth: int) -> Any:
        count = self._number()
        if inner == _NAT8:
            return self._take(count)
        if inner in _FIXED:
            return self._take(count * _FIXED[inner])
        values = []
        for _ in range(count):
            before = self._at
            values.append(self._value(inner, depth))
            if self._at == before:
                self._empty += 1
                if self._empty > _MAX_EMPTY_ELEMENTS:
                    raise _bad("its lists have too many elements without content")
        return values

    def _primitive(self, type_: _Type) -> Any:  # noqa: PLR0911 - one branch per kind of type
        if type_ in _FIXED:
            return int.from_bytes(self._take(_FIXED[type_]), "little")
        match type_:
            case code if code in (_NULL, _RESERVED):
                return None
            case code if code == _BOOL:
                return self._flag()
            case code if code == _NAT:
                return self._number()
            case code if code == _INT:
                return self._integer()
            case code if code == _TEXT:
                data = bytes(self._take(self._number()))
                try:
                    return data.decode()
                except UnicodeDecodeError:
                    raise _bad("a text is not UTF-8") from None
            case code if code == _PRINCIPAL:
                if self._take(1)[0] != _REFERENCE:
                    raise _bad("a principal is opaque")
                return bytes(self._take(self._number()))
            case _:
                raise _bad(f"it holds a value of unknown type {type_}")

    # Bytes

    def _flag(self) -> bool:
        value = self._take(1)[0]
        if value > 1:
            raise _bad("a truth value is neither 0 nor 1")
        return value == 1

    def _bounded(self) -> int:
        number = self._number()
        if number > len(self._data):
            raise _bad("it ends early")
        return number

    def _number(self) -> int:
        number = shift = 0
        while True:
            byte = self._take(1)[0]
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
            shift += 7
            if shift > 7 * _MAX_DEPTH:
                raise _bad("a number is too long")

    def _integer(self) -> int:
        number = shift = 0
        while True:
            byte = self._take(1)[0]
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number - (1 << shift) if byte & 0x40 else number
            if shift > 7 * _MAX_DEPTH:
                raise _bad("a number is too long")

    def _take(self, count: int) -> memoryview:
        end = self._at + count
        if end > len(self._data):
            raise _bad("it ends early")
        part = self._data[self._at : end]
        self._at = end
        return part


@attrs.frozen
class _Function:
    canister_id: bytes
    method: str


def _signed(number: int) -> bytes:
    parts = bytearray()
    while True:
        byte = number & 0x7F
        number >>= 7
        if (number == 0 and not byte & 0x40) or (number == -1 and byte & 0x40):
            parts.append(byte)
            return bytes(parts)
        parts.append(byte | 0x80)
