r"""
Canonical JSON: the bytes JavaScript's ``JSON.stringify`` writes, and a reader as strict as ``JSON.parse``.

Compact, UTF-8 without byte order mark, non-ASCII raw, keys in the order given. Inside strings only these are escaped:
``"`` ``\``, control characters below U+0020 (as ``\b \t \n \f \r`` or ``\u00xx``) and lone surrogates (as
``\udxxx``), hexadecimal digits in lower case.

Two things are kept that JavaScript loses: whole numbers of any size, and decimals, which are read as `Decimal` so that
``1.10`` stays ``1.10`` (an exponent is written as `Decimal` writes it: ``1e5`` becomes ``1E+5``). Keys that look like
array indices keep their place; JavaScript would move them to the front.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

import msgspec

from ..model.json_input import MAX_DEPTH, check_nesting

__all__ = ["MAX_DEPTH", "JsonError", "check_depth", "dumps", "loads"]

_MAX_INT_DIGITS = 4000
"""Python refuses to convert longer texts to `int` (CVE-2020-10735); such numbers stay `Decimal`."""

_encoder = msgspec.json.Encoder(decimal_format="number")
_decoder = msgspec.json.Decoder(float_hook=Decimal)
_quote: Callable[[str], str] = json.encoder.encode_basestring
_SCALARS = frozenset({str, int, bool, type(None)})
_SURROGATE = re.compile("[\ud800-\udfff]")


class JsonError(ValueError):
    """Not JSON, nested too deeply, or a number beyond what `Decimal` can hold. The text never quotes the input."""


def dumps(value: Any) -> bytes:
    """
    Return *value* as compact JSON.

    Accepts what `loads` returns, tuples as arrays, and floats, which are written as JavaScript writes them.

    Raises:
        JsonError: A number that is not finite, or nesting beyond the interpreter's limit.
        TypeError: *value* holds something JSON has no form for, or a key that is not text.

    Source:
        ECMAScript 2024, 25.5.2 ``JSON.stringify``, with well-formed output for lone surrogates.
    """
    try:
        if _is_plain(value):
            try:
                return _encoder.encode(value)
            except (UnicodeEncodeError, OverflowError):
                pass  # a lone surrogate or an integer beyond 64 bits: rare, so written by the slower path
        parts: list[str] = []
        _write(value, parts.append)
    except RecursionError as error:
        raise JsonError("the value is nested too deeply to be written as JSON") from error
    text = "".join(parts)
    if _SURROGATE.search(text):
        # A pair held as two code points is one character to JavaScript; what is left alone is escaped.
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        text = _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    return text.encode()


def loads(data: bytes, *, max_depth: int = MAX_DEPTH) -> Any:
    """
    Return the value of one JSON text.

    Objects become dicts in the order of first appearance (of repeated keys the last value counts, as in JavaScript),
    whole numbers `int`, all others `Decimal`. Text may hold lone surrogates when the input escapes them.

    Args:
        data: UTF-8, without byte order mark.
        max_depth: Deepest nesting of arrays and objects that is accepted, at most `MAX_DEPTH`.

    Raises:
        JsonError: Anything ``JSON.parse`` refuses, invalid UTF-8, or a limit is exceeded.
    """
    try:
        check_nesting(data, max_depth)
    except ValueError as error:
        raise JsonError(str(error)) from error
    try:
        value = _decoder.decode(data)
    except RecursionError as error:
        raise JsonError(f"the JSON text is nested deeper than {max_depth} levels") from error
    except (ValueError, InvalidOperation):
        value = _loads_slowly(data, max_depth)  # lone surrogates, huge integers, or really not JSON: this one decides
    check_depth(value, max_depth)
    return value


def _is_plain(value: Any) -> bool:
    """Tell whether msgspec writes *value* as JavaScript would; raise for what neither can write."""
    kind = type(value)
    if kind in _SCALARS:
        return True
    if kind is dict:
        if not all(type(key) is str for key in value):
            raise TypeError("a JSON key must be text")
        return _all_plain(value.values())
    if kind is list or kind is tuple:
        return _all_plain(value)
    if kind is not float and kind is not Decimal:
        message = f"{kind.__name__} has no JSON form"
        raise TypeError(message)
    if not (value.is_finite() if kind is Decimal else math.isfinite(value)):  # isfinite() overflows large decimals
        raise JsonError("a number that is not finite has no JSON form")
    return kind is Decimal


def _all_plain(items: Iterable[Any]) -> bool:
    plain = True
    for item in items:
        plain = _is_plain(item) and plain  # no short cut: every item is to be checked
    return plain


def _write(value: Any, emit: Callable[[str], None]) -> None:
    if isinstance(value, str):
        emit(_quote(value))
    elif value is None:
        emit("null")
    elif isinstance(value, bool):
        emit("true" if value else "false")
    elif isinstance(value, int | Decimal):
        emit(_digits(value))
    elif isinstance(value, float):
        emit(_float(value))
    elif isinstance(value, dict):
        separator = "{"
        for key, item in value.items():
            emit(f"{separator}{_quote(key)}:")
            _write(item, emit)
            separator = ","
        emit("}" if value else "{}")
    else:
        separator = "["
        for item in value:
            emit(separator)
            _write(item, emit)
            separator = ","
        emit("]" if value else "[]")


def _digits(value: int | Decimal) -> str:
    try:
        return str(value)
    except ValueError as error:
        raise JsonError("an integer has too many digits to be written") from error


def _float(value: float) -> str:
    """Return a float as ``Number::toString`` does: shortest digits, exponents only outside 1e-7 .. 1e21."""
    if value == 0:
        return "0"
    sign, digits, exponent = Decimal(repr(value)).as_tuple()
    text = "".join(map(str, digits)).rstrip("0")
    point = len(digits) + int(exponent)  # position of the decimal point relative to the first digit
    if len(text) <= point <= 21:
        body = text.ljust(point, "0")
    elif 0 < point <= 21:
        body = f"{text[:point]}.{text[point:]}"
    elif -6 < point <= 0:
        body = f"0.{'0' * -point}{text}"
    else:
        mantissa = text if len(text) == 1 else f"{text[0]}.{text[1:]}"
        body = f"{mantissa}e{point - 1:+d}"
    return f"-{body}" if sign else body


def _loads_slowly(data: bytes, max_depth: int) -> Any:
    try:
        return json.loads(
            data.decode("utf-8"), parse_float=_decimal, parse_int=_integer, parse_constant=_refuse_constant
        )
    except RecursionError as error:
        raise JsonError(f"the JSON text is nested deeper than {max_depth} levels") from error
    except json.JSONDecodeError as error:
        raise JsonError(f"not JSON at character {error.pos}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise JsonError(f"not UTF-8 at byte {error.start}") from error


def _integer(digits: str) -> int | Decimal:
    return int(digits) if len(digits) <= _MAX_INT_DIGITS else _decimal(digits)


def _decimal(digits: str) -> Decimal:
    try:
        return Decimal(digits)
    except InvalidOperation as error:
        raise JsonError("a number is beyond the range of decimals") from error


def _refuse_constant(_name: str) -> NoReturn:
    raise JsonError("NaN and Infinity are not JSON")


def check_depth(value: Any, remaining: int = MAX_DEPTH) -> None:
    """Raise `JsonError` when a decoded *value* nests more than *remaining* levels deep."""
    if isinstance(value, dict):
        items: Any = value.values()
    elif isinstance(value, list):
        items = value
    else:
        return
    if remaining <= 0:
        raise JsonError("the JSON text is nested too deeply")
    for item in items:
        if isinstance(item, dict | list):
            check_depth(item, remaining - 1)
