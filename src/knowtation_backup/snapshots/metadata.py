"""
``metadata.json`` of a downloaded snapshot, as ``icp`` and ``dfx`` write and read it.

The text is byte for byte that of icp 1.5.0: the answer of ``read_canister_snapshot_metadata`` as pretty JSON with two
spaces, keys in the order of the interface, one element per line, no line end at the end. One case differs. Both tools
write a NaN or an infinity as ``null`` and then cannot upload what they downloaded. We write the same ``null``, and
after everything else a key the tools ignore, with the bits that stand for it, by position in ``globals``::

      "knowtation_float_bits": {
        "3": "7ff8000000000001"
      }

Source:
    internet-computer reference, E.2; contracts, 3.4.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, Final

import attrs

from ..errors import IntegrityError
from ..model.canisters import GlobalKind, GlobalValue, SnapshotMetadata
from ..model.json_input import check_nesting, typed

__all__ = ["FLOAT_BITS_KEY", "MAX_METADATA_BYTES", "metadata_json", "parse_metadata"]

MAX_METADATA_BYTES: Final = 4 << 20
"""A thousand globals and a hundred chunks, the most there can be, take a tenth of it."""
FLOAT_BITS_KEY: Final = "knowtation_float_bits"
"""Our own key of ``metadata.json``: bits of the floats that JSON cannot write."""

_DIGIT_BITS: Final = 32
_DIGIT_MASK: Final = (1 << _DIGIT_BITS) - 1
_MAX_U64: Final = (1 << 64) - 1
_MAX_U128: Final = (1 << 128) - 1
_HASH_BYTES: Final = 32
_HOOK_STATES: Final = frozenset({"condition_not_satisfied", "ready", "executed"})


@attrs.frozen
class _Float:
    """How a float is laid out, and how the Rust library behind icp 1.5.0 writes one."""

    layout: str
    integer: str
    hex_digits: int
    most_digits: int
    plain_below: int
    """Powers of ten from which numbers are written with an exponent."""
    plain_from: int
    """Likewise for small numbers."""

    def value(self, bits: int) -> float:
        """Return the number with these bits."""
        number: float
        (number,) = struct.unpack(self.layout, struct.pack(self.integer, bits))
        return number

    def bits(self, number: float) -> int:
        """Return the bits of the nearest number of this width; raises `OverflowError` when it has none."""
        bits: int
        (bits,) = struct.unpack(self.integer, struct.pack(self.layout, number))
        return bits


_FLOATS: Final[Mapping[GlobalKind, _Float]] = {
    GlobalKind.F32: _Float("<f", "<I", 8, 9, 13, -6),
    GlobalKind.F64: _Float("<d", "<Q", 16, 17, 16, -5),
}
_INTEGER_BITS: Final[Mapping[GlobalKind, int]] = {GlobalKind.I32: 32, GlobalKind.I64: 64}


def metadata_json(metadata: SnapshotMetadata) -> bytes:
    """
    Return the text of ``metadata.json``.

    A global of a kind this release does not know is ``null``, as the tools write it.
    """
    floats = {
        str(place): f"{item.bits:0{_FLOATS[item.kind].hex_digits}x}"
        for place, item in enumerate(metadata.globals)
        if item is not None and _unwritable(item)
    }
    timer: Any = metadata.global_timer
    tree: dict[str, Any] = {
        "source": None if metadata.source is None else {metadata.source: None},
        "taken_at_timestamp": metadata.taken_at_ns,
        "wasm_module_size": metadata.wasm_module_size,
        "globals": [_global_tree(item) for item in metadata.globals],
        "wasm_memory_size": metadata.wasm_memory_size,
        "stable_memory_size": metadata.stable_memory_size,
        "wasm_chunk_store": [{"hash": list(sha256)} for sha256 in metadata.wasm_chunk_store],
        "canister_version": metadata.canister_version,
        "certified_data": list(metadata.certified_data),
        "global_timer": {"active": timer} if isinstance(timer, int) else timer,
        "on_low_wasm_memory_hook_status": metadata.on_low_wasm_memory_hook_status,
    }
    if floats:
        tree[FLOAT_BITS_KEY] = floats
    return "".join(_lines(tree, "")).encode()


@attrs.frozen
class _Literal:
    """A number as text."""

    text: str


def _lines(value: Any, indent: str) -> Iterator[str]:
    deeper = indent + "  "
    if isinstance(value, _Literal):
        yield value.text
    elif isinstance(value, dict) and value:
        for place, (key, item) in enumerate(value.items()):
            yield f"{',' if place else '{'}\n{deeper}{json.dumps(key)}: "
            yield from _lines(item, deeper)
        yield f"\n{indent}}}"
    elif isinstance(value, list) and value:
        for place, item in enumerate(value):
            yield f"{',' if place else '['}\n{deeper}"
            yield from _lines(item, deeper)
        yield f"\n{indent}]"
    else:
        yield json.dumps(value)


def _unwritable(item: GlobalValue) -> bool:
    layout = _FLOATS.get(item.kind)
    return layout is not None and not math.isfinite(layout.value(item.bits))


def _global_tree(item: GlobalValue | None) -> Any:
    if item is None:
        return None
    value: Any
    if item.kind is GlobalKind.V128:
        value = list(_base_2_32(item.bits))
    elif item.kind in _FLOATS:
        value = None if _unwritable(item) else _Literal(_float_text(item))
    else:
        width = _INTEGER_BITS[item.kind]
        value = item.bits - (1 << width) if item.bits >> (width - 1) else item.bits
    return {item.kind.value: value}


def _base_2_32(number: int) -> Iterator[int]:
    while number:
        yield number & _DIGIT_MASK
        number >>= _DIGIT_BITS


def _float_text(item: GlobalValue) -> str:
    """Write a float as the tools do: fewest digits that read back as the same bits, the nearest among those."""
    layout = _FLOATS[item.kind]
    number = layout.value(item.bits)
    sign = "-" if math.copysign(1.0, number) < 0 else ""
    if number == 0:
        return sign + "0.0"
    digits, exponent = _shortest(abs(number), layout)
    point = len(digits) + exponent  # the number is 0.digits x 10^point
    if exponent >= 0 and point <= layout.plain_below:
        return f"{sign}{digits}{'0' * exponent}.0"
    if 0 < point <= layout.plain_below:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if layout.plain_from < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{fraction}e{point - 1:+d}"


def _shortest(number: float, layout: _Float) -> tuple[str, int]:
    """Return decimal digits and a power of ten; *number* is above zero."""
    if layout.most_digits == _FLOATS[GlobalKind.F64].most_digits:
        text = repr(number)  # the same rule: shortest, then nearest
    else:
        text = next(_short_forms(number, layout))
    mantissa, _, power = text.partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    exponent = int(power or "0") - len(fraction)
    trimmed = digits.rstrip("0")
    return trimmed, exponent + len(digits) - len(trimmed)


def _short_forms(number: float, layout: _Float) -> Iterator[str]:
    """Yield texts that read back as *number*, the shortest and nearest first."""
    bits = layout.bits(number)
    exact = Fraction(number)
    for places in range(layout.most_digits):
        text = f"{number:.{places}e}"
        mantissa, _, power = text.partition("e")
        base = int(mantissa.replace(".", ""))
        # Below a power of two the numbers lie closer than above it, so the nearest text may be out of reach while its
        # neighbour is not.
        near = sorted(
            (f"{base + step}e{int(power) - places}" for step in (0, 1, -1)),
            key=lambda form: abs(Fraction(form) - exact),
        )
        for form in near:
            try:
                if layout.bits(float(form)) == bits:
                    yield form
            except OverflowError:
                continue


# -- reading ----------------------------------------------------------------------------------------------------------


def parse_metadata(data: bytes) -> SnapshotMetadata:
    """
    Return what a ``metadata.json`` says, in the spelling of any release of ``icp`` or ``dfx``.

    Unknown keys are ignored, integers are exact. A float written as ``null`` without bits beside it becomes `None`, as
    does a global of an unknown kind: it can be looked at, not uploaded.

    Raises:
        IntegrityError: It is no such text (``snapshot_metadata``).
    """
    if len(data) > MAX_METADATA_BYTES:
        raise _refusal(f"it is larger than {MAX_METADATA_BYTES} bytes")
    try:
        check_nesting(data)
        tree = typed(json.loads(data, parse_constant=_no_constant, object_pairs_hook=_unique), dict)
        return _metadata(tree)
    except KeyError as error:
        raise _refusal(f"{error.args[0]} is missing") from error
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise _refusal(str(error)[:200]) from error


def _refusal(why: str) -> IntegrityError:
    hint = "download the snapshot again, or restore the file from a copy"
    return IntegrityError(f"metadata.json of the snapshot cannot be read: {why}", kind="snapshot_metadata", hint=hint)


def _no_constant(text: str) -> Any:
    message = f"{text} is not JSON"
    raise ValueError(message)


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        # Readers disagree on which of the two counts, so that one would check what another uploads.
        message = "a key is there twice"
        raise ValueError(message)
    return tree


def _metadata(tree: Mapping[str, Any]) -> SnapshotMetadata:
    elements = typed(_either(tree, "globals", "exported_globals"), list)
    bits = typed(tree.get(FLOAT_BITS_KEY, {}), dict)
    return SnapshotMetadata(
        wasm_module_size=_u64(tree["wasm_module_size"]),
        wasm_memory_size=_u64(_either(tree, "wasm_memory_size", "main_memory_size")),
        stable_memory_size=_u64(tree["stable_memory_size"]),
        globals=tuple(_global(item, bits.get(str(place))) for place, item in enumerate(elements)),
        wasm_chunk_store=tuple(_hash(item) for item in typed(tree.get("wasm_chunk_store") or [], list)),
        certified_data=_blob(tree.get("certified_data") or []),
        taken_at_ns=_u64(tree.get("taken_at_timestamp") or 0),
        canister_version=_u64(tree.get("canister_version") or 0),
        source=_source(tree.get("source")),
        global_timer=_timer(tree.get("global_timer")),
        on_low_wasm_memory_hook_status=_hook(tree.get("on_low_wasm_memory_hook_status")),
    )


def _either(tree: Mapping[str, Any], name: str, older: str) -> Any:
    if name in tree and older in tree:
        message = f"both {name} and {older} are there"
        raise ValueError(message)
    return tree[older] if older in tree else tree[name]


def _u64(value: Any) -> int:
    return _within(typed(value, int), 0, _MAX_U64)


def _within(number: int, low: int, high: int) -> int:
    if not low <= number <= high:
        message = "a number is out of range"
        raise ValueError(message)
    return number


def _blob(value: Any) -> bytes:
    """Return bytes from a list of numbers, or from hexadecimal text."""
    if isinstance(value, str):
        return bytes.fromhex(value)
    return bytes(typed(item, int) for item in typed(value, list))


def _hash(item: Any) -> bytes:
    sha256 = _blob(typed(item, dict)["hash"])
    if len(sha256) != _HASH_BYTES:
        message = "a hash in wasm_chunk_store is not of 32 bytes"
        raise ValueError(message)
    return sha256


def _source(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return next(iter(typed(value, dict)), None)


def _timer(value: Any) -> int | str | None:
    if value is None or value == "inactive":
        return None if value is None else "inactive"
    tree = typed(value, dict)
    return _u64(tree["active"]) if "active" in tree else _only(tree, "inactive")


def _hook(value: Any) -> str | None:
    if isinstance(value, dict):
        value = next(iter(value), None)
    if value is None or typed(value, str) in _HOOK_STATES:
        return None if value is None else str(value)
    message = "on_low_wasm_memory_hook_status is none of the known states"
    raise ValueError(message)


def _only(tree: Mapping[str, Any], name: str) -> str:
    if set(tree) != {name}:
        message = f"expected {name} alone"
        raise ValueError(message)
    return name


def _global(item: Any, bits: Any) -> GlobalValue | None:
    if item is None:
        return None
    tree = typed(item, dict)
    if len(tree) != 1:
        message = "a global has one kind"
        raise ValueError(message)
    ((name, value),) = tree.items()
    try:
        kind = GlobalKind(name)
    except ValueError:
        return None
    number = _BITS[kind](kind, value, bits)
    return None if number is None else GlobalValue(kind, number)


def _integer_bits(kind: GlobalKind, value: Any, _bits: Any) -> int:
    width = _INTEGER_BITS[kind]
    number = _within(typed(value, int), -(1 << (width - 1)), (1 << (width - 1)) - 1)
    return number % (1 << width)


def _float_bits(kind: GlobalKind, value: Any, bits: Any) -> int | None:
    layout = _FLOATS[kind]
    if value is None:
        if bits is None:
            return None
        if not re.fullmatch(rf"[0-9a-f]{{{layout.hex_digits}}}", typed(bits, str)):
            message = f"{FLOAT_BITS_KEY} holds something else than bits"
            raise ValueError(message)
        number = int(bits, 16)
        if math.isfinite(layout.value(number)):
            message = f"{FLOAT_BITS_KEY} holds a number that JSON could have written"
            raise ValueError(message)
        return number
    finite = float(value if type(value) is int else typed(value, float))
    if not math.isfinite(finite):
        message = "a number is out of range"
        raise ValueError(message)
    return layout.bits(finite)


def _vector_bits(_kind: GlobalKind, value: Any, _bits: Any) -> int:
    if isinstance(value, str):
        if not re.fullmatch(r"[0-9_]{1,60}", value):
            message = "a v128 is no decimal number"
            raise ValueError(message)
        return _within(int(value.replace("_", "") or "0"), 0, _MAX_U128)
    if type(value) is int:
        return _within(value, 0, _MAX_U128)
    digits = [_within(typed(digit, int), 0, _DIGIT_MASK) for digit in typed(value, list)]
    number = 0
    for digit in reversed(digits[:8]):
        number = number << _DIGIT_BITS | digit
    if any(digits[8:]):
        message = "a number is out of range"
        raise ValueError(message)
    return _within(number, 0, _MAX_U128)


_BITS: Final[Mapping[GlobalKind, Callable[[GlobalKind, Any, Any], int | None]]] = {
    GlobalKind.I32: _integer_bits,
    GlobalKind.I64: _integer_bits,
    GlobalKind.F32: _float_bits,
    GlobalKind.F64: _float_bits,
    GlobalKind.V128: _vector_bits,
}
