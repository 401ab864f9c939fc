"""
Candid, the sandbox's own: bytes in both directions, by declared types or by the types found in a message.

``DIDL``, type table, argument types, values; integers in LEB128, sized numbers little endian, text and blobs with their
length in front. `types` tells how values look in Python; its names are available from here.

Source:
    Candid specification, "Binary format"; internet-computer reference, C.1 and J.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .reader import CandidReader
from .types import (
    BLOB,
    BOOL,
    EMPTY,
    FLOAT32,
    FLOAT64,
    INT,
    INT8,
    INT16,
    INT32,
    INT64,
    NAT,
    NAT8,
    NAT16,
    NAT32,
    NAT64,
    NULL,
    PRINCIPAL,
    RESERVED,
    TEXT,
    CandidError,
    CandidType,
    Field,
    Func,
    Opt,
    Primitive,
    Record,
    Service,
    Some,
    Variant,
    Vec,
    field_id,
    is_subtype,
)
from .writer import write_message

__all__ = [
    "BLOB",
    "BOOL",
    "EMPTY",
    "FLOAT32",
    "FLOAT64",
    "INT",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "NAT",
    "NAT8",
    "NAT16",
    "NAT32",
    "NAT64",
    "NULL",
    "PRINCIPAL",
    "RESERVED",
    "TEXT",
    "CandidError",
    "CandidType",
    "Field",
    "Func",
    "Opt",
    "Primitive",
    "Record",
    "Service",
    "Some",
    "Variant",
    "Vec",
    "decode",
    "decode_untyped",
    "encode",
    "field_id",
    "is_subtype",
    "wire_types",
]


def encode(types: Sequence[CandidType], values: Sequence[Any]) -> bytes:
    """
    Return *values* as a Candid argument sequence of *types*.

    Fields of option type may be missing from a record's dict. Blobs are joined once, whatever their size.

    Raises:
        CandidError: A value does not fit its type.
    """
    return write_message(types, values)


def decode(data: bytes, types: Sequence[CandidType]) -> tuple[Any, ...]:
    """
    Return the values of a Candid argument sequence, read as *types*.

    Missing trailing arguments and record fields of option, null or reserved type are `None`; additional ones are
    skipped. Blobs are sliced once.

    Raises:
        CandidError: *data* is not Candid, its types are not subtypes of *types*, or its nesting or size is excessive.
    """
    reader = CandidReader(data)
    wire = reader.header()
    values: list[Any] = []
    for index, type_ in enumerate(types):
        if index >= len(wire):
            if not (isinstance(type_, Opt) or type_ is NULL or type_ is RESERVED):
                raise CandidError(f"Candid argument {index} is missing")
            values.append(None)
        elif not reader.is_subtype(wire[index], type_):
            raise CandidError(f"Candid argument {index} is not of the expected type")
        else:
            values.append(reader.read(wire[index], type_))
    for type_ in wire[len(types) :]:
        reader.skip(type_)
    reader.finish()
    return tuple(values)


def wire_types(data: bytes) -> tuple[CandidType, ...]:
    """
    Return the types that stand in *data*; its values are not looked at.

    Raises:
        CandidError: *data* does not start as Candid does.
    """
    return CandidReader(data).header()


def decode_untyped(data: bytes) -> tuple[tuple[CandidType, ...], tuple[Any, ...]]:
    """
    Return types and values as they stand in *data*; record fields and variants are keyed by field number.

    `encode` with these types and values gives a message of the same meaning.

    Raises:
        CandidError: *data* is not Candid, or its nesting or size is excessive.
    """
    reader = CandidReader(data)
    wire = reader.header()
    values = tuple([reader.read(type_, type_) for type_ in wire])
    reader.finish()
    return wire, values
