"""
Walk through one huge JSON text that arrives in chunks, holding only the part being looked at.

`JsonCursor` stands before a value. The caller steps into it (`members`, `elements`), takes it whole (`value`), or
takes several array elements at once (`batches`). Whatever is taken whole is parsed strictly, so the text as a whole is
checked; only what is held at one time is bounded, not what passes through.

Speed comes from guessing where a run of elements ends and letting the parser, written in C, prove the guess: a complete
JSON value has exactly one end, so a slice that parses is the right slice. A wrong guess only costs time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from ..model.json_input import check_values
from .canonical import MAX_DEPTH, JsonError, loads

__all__ = ["JsonCursor", "JsonTooLargeError", "JsonTruncatedError"]

_FILL_BYTES = 1 << 20
_FIRST_WINDOW_BYTES = 1 << 14
_LAST_WINDOW_BYTES = 1 << 20
_MOST_PATIENCE = 256
_WHITE = b" \t\n\r"
_NOT_WHITE = re.compile(rb"[^ \t\n\r]")
_SCALAR = re.compile(rb"[-+.0-9A-Za-z]*+")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_BRACKET = re.compile(rb'["\[\]{}]')
_BETWEEN_OBJECTS = b'},{"'
_LAST_OBJECT = re.compile(rb"\}\]")
"""A pattern, because `bytes.find` takes twice as long, and with it a quarter of the time of reading notes."""

T = TypeVar("T")


class JsonTruncatedError(JsonError):
    """The text ends in the middle."""


class JsonTooLargeError(JsonError):
    """One value is larger than the caller allows."""


class JsonCursor:
    """
    A position in a JSON text.

    Args:
        chunks: UTF-8 bytes in order, of any sizes; a byte order mark is skipped.
        value_limit_bytes: Largest value that `value`, `raw` and `batches` hold at once.
        max_depth: Deepest nesting inside a value taken whole.
        offset: Position of the first byte, for messages.
    """

    def __init__(
        self,
        chunks: Iterable[bytes],
        *,
        value_limit_bytes: int,
        max_depth: int = MAX_DEPTH,
        offset: int = 0,
    ) -> None:
        self._chunks = iter(chunks)
        self._limit = value_limit_bytes
        self._max_depth = max_depth
        self._data = b""
        self._pos = 0
        self._base = offset
        self._ended = False
        self._fill(3)
        if self._data.startswith(b"\xef\xbb\xbf"):
            self._pos = 3

    @property
    def offset(self) -> int:
        """How many bytes of the text lie before the cursor."""
        return self._base + self._pos

    def peek(self) -> bytes:
        """Skip white space and return the next byte without taking it, or ``b""`` at the end of the text."""
        while True:
            found = _NOT_WHITE.search(self._data, self._pos)
            if found:
                self._pos = found.start()
                return found[0]
            self._pos = len(self._data)
            if not self._fill(1):
                return b""

    def members(self) -> Iterator[str]:
        """Step into an object and yield each key; the caller takes the value before asking for the next."""
        self._take(b"{")
        if self.peek() == b"}":
            self._pos += 1
            return
        seen: set[str] = set()
        while True:
            if (found := self.peek()) != b'"':
                raise self._unexpected("a key") if found else self._truncated()
            key = self.value()
            if key in seen:
                raise self._error("a key is repeated in one object")
            seen.add(key)
            self._take(b":")
            yield key
            if self._between(b"}"):
                return

    def elements(self) -> Iterator[None]:
        """Step into an array and yield before each element; the caller takes it before asking for the next."""
        self._take(b"[")
        if self.peek() == b"]":
            self._pos += 1
            return
        while True:
            yield
            if self._between(b"]"):
                return

    def batches(self, decode: Callable[[bytes], T], fallback: Callable[[bytes], T]) -> Iterator[T]:
        """
        Step into an array of objects and yield its elements in runs.

        Args:
            decode: Turns the text of an array into the caller's form of a run; raises `ValueError` (as msgspec
                does) or `RecursionError` for anything it is not sure about.
            fallback: Turns the raw bytes of a single element into a run; the exact path, decides on errors.
        """
        self._take(b"[")
        if self.peek() == b"]":
            self._pos += 1
            return
        window = _FIRST_WINDOW_BYTES  # small at first, because most arrays of most hubs are small
        patience, exact = 1, 0
        while True:
            run = None
            if exact:
                exact -= 1
            else:
                run, worth_it = self._run(decode, window)
                if worth_it:
                    window = min(2 * window, _LAST_WINDOW_BYTES)
                    patience = 1
                else:
                    patience = exact = min(2 * patience, _MOST_PATIENCE)
                    window = _FIRST_WINDOW_BYTES  # less is lost by the next wrong guess
            yield run if run is not None else fallback(self.raw())
            if self._between(b"]"):
                return

    def value(self) -> Any:
        """Take the next value whole and return it, parsed as `loads` does."""
        return self.parse(self.raw())

    def parse(self, raw: bytes) -> Any:
        """Parse bytes returned by `raw`, naming their place when they are not JSON, or hold very many values."""
        try:
            check_values(raw)
        except ValueError as error:
            raise JsonTooLargeError(f"{error}, in the one that ends at byte {self.offset}") from error
        try:
            return loads(raw, max_depth=self._max_depth)
        except JsonError as error:
            message = f"{error}, in the value that ends at byte {self.offset}"
            raise JsonError(message) from error

    def raw(self) -> bytes:
        """
        Take the next value whole and return its bytes, brackets and quotes balanced but not parsed.

        Raises:
            JsonTooLargeError: It is larger than the limit; nothing beyond the limit was kept.
            JsonTruncatedError: The text ends inside the value.
        """
        first = self.peek()
        if first == b"":
            raise self._truncated()
        if first in b",:]}":
            raise self._unexpected("a value")
        scan = self._scan_container if first in b"[{" else self._scan_string if first == b'"' else self._scan_scalar
        while (end := scan()) < 0:
            if len(self._data) - self._pos > self._limit:
                raise JsonTooLargeError(f"a value at byte {self.offset} is larger than {self._limit} bytes")
            if not self._fill(2 * (len(self._data) - self._pos)):
                raise self._truncated()
        if end - self._pos > self._limit:
            raise JsonTooLargeError(f"a value at byte {self.offset} is larger than {self._limit} bytes")
        raw = self._data[self._pos : end]
        self._pos = end
        return raw

    def finish(self) -> None:
        """Check that nothing but white space is left; raises `JsonError` otherwise."""
        if self.peek() != b"":
            raise self._error("there is more after the end of the JSON text")

    def _fill(self, wanted_bytes: int) -> bool:
        """Read until *wanted_bytes* lie ahead of the cursor or the text ends; tell whether anything was added."""
        ahead = len(self._data) - self._pos
        if self._ended or ahead >= wanted_bytes:
            return False
        parts = [self._data[self._pos :]]
        goal = max(wanted_bytes, _FILL_BYTES)
        had = ahead
        while ahead < goal:
            chunk = next(self._chunks, None)
            if chunk is None:
                self._ended = True
                break
            parts.append(bytes(chunk))
            ahead += len(chunk)
        self._base += self._pos
        self._pos = 0
        self._data = b"".join(parts)
        return ahead > had

    def _take(self, expected: bytes) -> None:
        found = self.peek()
        if found != expected:
            raise self._truncated() if found == b"" else self._unexpected(f"'{expected.decode()}'")
        self._pos += 1

    def _between(self, closing: bytes) -> bool:
        """Take what stands after an element; tell whether it closed the container."""
        found = self.peek()
        if found not in (b",", closing):
            raise self._truncated() if found == b"" else self._unexpected(f"',' or '{closing.decode()}'")
        self._pos += 1
        return found == closing

    def _scan_string(self) -> int:
        return self._end_of_string(self._pos)

    def _scan_scalar(self) -> int:
        found = _SCALAR.match(self._data, self._pos)
        end = found.end() if found else self._pos
        if end == self._pos:
            raise self._unexpected("a value")
        return end if end < len(self._data) or self._ended else -1

    def _scan_container(self) -> int:
        data, position, depth = self._data, self._pos, 0
        while found := _BRACKET.search(data, position):
            mark = found[0]
            position = found.end()
            if mark == b'"':
                position = self._end_of_string(found.start())
                if position < 0:
                    return -1
            elif mark in b"[{":
                depth += 1
                if depth > self._max_depth:
                    raise self._error(f"the JSON text is nested deeper than {self._max_depth} levels")
            else:
                depth -= 1
                if depth == 0:
                    return position
        return -1

    def _end_of_string(self, start: int) -> int:
        """Return the offset behind the string whose opening quote is at *start*, or -1 when it is not all here."""
        end = self._data.find(b'"', start + 1)
        if end < 0 or self._data[end - 1] != 0x5C:
            return end + 1 or -1
        string = _STRING.match(self._data, start)  # an escaped quote, or an escaped backslash: let the pattern count
        return string.end() if string else -1

    def _run(self, decode: Callable[[bytes], T], window: int) -> tuple[T | None, bool]:
        """Try to take several elements at once; also tell whether to go on trying at once."""
        if self.peek() != b"{":
            return None, False
        self._fill(window)
        data, start = self._data, self._pos
        last = data.rfind(_BETWEEN_OBJECTS, start, start + window)
        if last < 0:
            return None, True  # one element fills the window
        close = _LAST_OBJECT.search(data, start, last)
        ends = (last + 1,) if close is None else (close.start() + 1, last + 1)
        for end in ends:  # the array may end before what looks like its last comma
            try:
                run = decode(b"[%b]" % data[start:end])
            except (ValueError, ArithmeticError, RecursionError):
                continue
            self._pos = end
            return run, True
        return None, False

    def _error(self, reason: str) -> JsonError:
        return JsonError(f"{reason}, at byte {self.offset}")

    def _unexpected(self, expected: str) -> JsonError:
        return self._error(f"expected {expected}")

    def _truncated(self) -> JsonTruncatedError:
        return JsonTruncatedError(f"the JSON text ends in the middle, at byte {self._base + len(self._data)}")
