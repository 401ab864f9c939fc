"""What every compression shares: limits against bombs, reading by exact sizes, optional packages."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs

from .._checks import at_least
from ..errors import ConfigurationError, IntegrityError, TruncatedError, UnsupportedFormatError

__all__ = ["Expand", "Input", "UnwrapLimits", "beginning_with", "cut", "damaged", "limited", "not_this", "require"]

Expand = Callable[[Iterable[bytes]], Iterator[bytes]]
"""Undoes one compression as a stream; never yields nothing, and at most a few MB at a time."""


@attrs.frozen(kw_only=True)
class UnwrapLimits:
    """How much compressed bytes may grow before they are taken for a bomb."""

    ratio: int = attrs.field(default=200, validator=at_least(1))
    """Unwrapped bytes allowed per stored byte; text compresses 3 to 20 times."""
    allowance_bytes: int = attrs.field(default=64 << 20, validator=at_least(0))
    """Unwrapped bytes allowed in any case, so that small repetitive files pass."""

    def least_stored(self, plain_bytes: int) -> int:
        """Return the fewest stored bytes that may stand for *plain_bytes*."""
        return -(-max(0, plain_bytes - self.allowance_bytes) // self.ratio)


def limited(expand: Expand, chunks: Iterable[bytes], limits: UnwrapLimits) -> Iterator[bytes]:
    """
    Yield what *expand* makes of *chunks*, until it is more than *limits* allow for the bytes read so far.

    Raises:
        IntegrityError: It is more (``decompression_limit``); the part that would have been is not released.
    """
    taken = given = 0

    def counted() -> Iterator[bytes]:
        nonlocal taken
        for chunk in chunks:
            taken += len(chunk)
            yield chunk

    for part in expand(counted()):
        given += len(part)
        if limits.least_stored(given) > taken:
            raise IntegrityError(
                f"the compressed bytes grew to {given} from {taken}",
                kind="decompression_limit",
                hint="if they are genuine, raise the ratio of UnwrapLimits",
            )
        yield part


def damaged(name: str, error: object) -> IntegrityError:
    """Return the error for bytes that *name* does not allow."""
    return IntegrityError(f"the {name} stream is damaged: {error}", kind="compressed_data", hint="use another copy")


def cut(name: str) -> TruncatedError:
    """Return the error for a *name* stream that stops too early."""
    return TruncatedError(f"the {name} stream ends early", hint="use another copy")


def not_this(name: str, head: bytes) -> UnsupportedFormatError:
    """Return the error for bytes that do not begin like *name*."""
    message = f"these bytes are not compressed with {name}: they start with {head[:4].hex()}"
    return UnsupportedFormatError(message, kind="bad_magic", hint="is this file compressed at all?")


def beginning_with(magic: bytes, name: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """
    Pass chunks on that begin with *magic*.

    Raises:
        UnsupportedFormatError: They do not (``bad_magic``).
    """
    head = b""
    for chunk in chunks:
        if len(head) < len(magic):
            head += chunk[: len(magic)]
            if head[: len(magic)] != magic[: len(head)]:
                raise not_this(name, head)
        yield chunk


def require(module: str, extra: str) -> Any:
    """
    Return an optional package.

    Raises:
        ConfigurationError: It is not installed (``missing_extra``).
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigurationError(
            f"{extra} compression needs the package {module}",
            kind="missing_extra",
            hint=f"install knowtation-backup[{extra}]",
        ) from error


class Input:
    """A stream of chunks, taken by exact sizes."""

    def __init__(self, name: str, chunks: Iterable[bytes]) -> None:
        self._name = name
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")

    def upto(self, size_bytes: int) -> bytes:
        """Return *size_bytes*, fewer only at the end."""
        if len(self._rest) >= size_bytes:  # nearly always
            part = self._rest[:size_bytes].tobytes()
            self._rest = self._rest[size_bytes:]
            return part
        return b"".join(self._views(size_bytes))

    def _views(self, size_bytes: int) -> list[memoryview]:
        parts: list[memoryview] = []
        missing = size_bytes
        while missing:
            if not self._rest:
                chunk = next(self._chunks, None)
                if chunk is None:
                    break
                self._rest = memoryview(chunk)
            parts.append(self._rest[:missing])
            self._rest = self._rest[missing:]
            missing -= len(parts[-1])
        return parts

    def views(self, size_bytes: int) -> list[memoryview]:
        """Return *size_bytes* as they lie in the chunks, without copying them; raises like `take`."""
        parts = self._views(size_bytes)
        if sum(map(len, parts)) < size_bytes:
            raise cut(self._name)
        return parts

    def take(self, size_bytes: int) -> bytes:
        """
        Return *size_bytes*.

        Raises:
            TruncatedError: There are fewer.
        """
        part = self.upto(size_bytes)
        if len(part) < size_bytes:
            raise cut(self._name)
        return part

    def skip(self, size_bytes: int) -> None:
        """Pass over *size_bytes*, however many, in bounded memory; raises like `take`."""
        for start in range(0, size_bytes, 1 << 20):
            self.take(min(1 << 20, size_bytes - start))
