"""
What a repository stores of a capture: named sections, each of a shape whose changes are found in its own way.

Memory is changed in place, so images are compared page by page; an export is a set of records, compared one by one
whatever their order; everything else is a file.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, TypeAlias

import attrs

from ..errors import ConfigurationError

__all__ = [
    "PAGE_BYTES",
    "FileSection",
    "ImageSection",
    "RecordSection",
    "Section",
    "SectionKind",
    "SectionRecord",
    "check_section_name",
]

PAGE_BYTES: Final = 4096
"""The unit in which images are compared and stored; a Wasm page is sixteen of them."""

_NAME: Final = re.compile(r"[A-Za-z0-9_.@=+,-]+(/[A-Za-z0-9_.@=+,-]+)*")
_MAX_CHARACTERS: Final = 200


def check_section_name(name: str) -> str:
    """
    Return *name* when it is a safe relative path.

    That is 1 to 200 characters, segments as in blob keys, none of which starts with a dot.

    Raises:
        ConfigurationError: A restored file of this name could lie outside its directory.
    """
    if len(name) > _MAX_CHARACTERS or not _NAME.fullmatch(name) or any(p.startswith(".") for p in name.split("/")):
        raise ConfigurationError(f"{name!r:.80} is no name of a section", kind="bad_section_name")
    return name


class SectionKind(enum.Enum):
    """The shape of a section."""

    IMAGE = "image"
    RECORDS = "records"
    FILE = "file"


class SectionRecord(NamedTuple):
    """One record. Owner and name together identify it over time; equal values cost nothing."""

    owner: bytes
    """Whose it is: UTF-8 of a tenant's id."""
    name: bytes
    """What it is, among the records of its owner; unique there."""
    value: bytes


@attrs.frozen(kw_only=True, eq=False)
class ImageSection:
    """Memory that is changed in place."""

    name: str = attrs.field(converter=check_section_name)
    """Also the path of the file in a restored directory."""
    size_bytes: int
    chunks: Iterable[bytes | memoryview] = attrs.field(repr=False)
    """The bytes in order, *size_bytes* together, in chunks of any sizes; what was yielded does not change later."""


@attrs.frozen(kw_only=True, eq=False)
class FileSection:
    """Bytes that are replaced as a whole."""

    name: str = attrs.field(converter=check_section_name)
    chunks: Iterable[bytes | memoryview] = attrs.field(repr=False)


@attrs.frozen(kw_only=True, eq=False)
class RecordSection:
    """A set of records, in any order of owners; the records of one owner come together."""

    name: str = attrs.field(converter=check_section_name)
    batches: Iterable[Sequence[SectionRecord]] = attrs.field(repr=False)


Section: TypeAlias = ImageSection | FileSection | RecordSection
