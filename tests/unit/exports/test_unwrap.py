"""Compressed payloads: recognised by content, limited, and never silently cut."""

from __future__ import annotations

import contextlib
import functools
import gzip
import sys
from collections.abc import Callable

import brotli  # type: ignore[import-untyped]  # ships no type information
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from knowtation_backup.errors import (
    BackupError,
    ConfigurationError,
    IntegrityError,
    TruncatedError,
    UnsupportedFormatError,
)
from knowtation_backup.exports.reader import ExportReader
from knowtation_backup.exports.unwrap import UnwrapLimits, unwrap

PLAIN = (
    b'{"format_version":4,"exported_at":"x","users":['
    + b",".join(b'{"user_id":"u%d","vaults":[],"proposals":[]}' % number for number in range(5000))
    + b"]}"
)
PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "brotli": functools.partial(brotli.compress, quality=4),
}


def opened(data: bytes, size: int = 4096, limits: UnwrapLimits | None = None) -> bytes:
    return b"".join(unwrap((data[start : start + size] for start in range(0, len(data), size)), limits))


@pytest.mark.parametrize("name", PACK)
@pytest.mark.parametrize("size", [1, 4096, 10**7])
def test_unwraps(name: str, size: int) -> None:
    data = PACK[name](PLAIN)
    assert len(data) < len(PLAIN) / 5
    assert opened(data, size) == PLAIN
    assert ExportReader([data]).read_all().counts["tenants"] == 5000


def test_plain_bytes_pass() -> None:
    for data in (PLAIN, b" \n" + PLAIN, b"\xef\xbb\xbf" + PLAIN, b"   "):
        assert opened(data) == data


def test_several_members_and_frames() -> None:
    half = len(PLAIN) // 2
    for name in ("gzip", "zstd"):
        assert opened(PACK[name](PLAIN[:half]) + PACK[name](PLAIN[half:])) == PLAIN
    assert opened(gzip.compress(PLAIN) + b"\x00" * 512) == PLAIN


@pytest.mark.parametrize("name", PACK)
def test_a_cut_stream_is_noticed(name: str) -> None:
    data = PACK[name](PLAIN)
    for size in (len(data) // 2, len(data) - 1):
        with pytest.raises(TruncatedError):
            opened(data[:size])


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_a_damaged_stream_is_noticed(name: str) -> None:
    pack = zstandard.ZstdCompressor(write_checksum=True).compress if name == "zstd" else PACK[name]
    data = bytearray(pack(PLAIN))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(IntegrityError):
        opened(bytes(data))


@pytest.mark.parametrize("name", PACK)
def test_bombs_are_stopped(name: str) -> None:
    bomb = PACK[name](b"{" + b" " * 30_000_000)
    seen: list[int] = []
    with pytest.raises(IntegrityError) as caught:
        seen.extend(len(part) for part in unwrap([bomb], UnwrapLimits(ratio=100, allowance_bytes=1_000_000)))
    assert caught.value.kind == "decompression_limit"
    assert sum(seen) < 12_000_000


def test_sealed_payloads_are_named() -> None:
    with pytest.raises(UnsupportedFormatError) as caught:
        unwrap([b"KTB1" + bytes(40)])
    assert caught.value.kind == "sealed"


@pytest.mark.parametrize("data", [b"[1,2,3]", b"hello, this is not a payload at all", b"PK\x03\x04", b"\x00\x00\x00"])
def test_other_formats_are_refused_naming_the_known(data: bytes) -> None:
    with pytest.raises(UnsupportedFormatError, match="gzip, zstd and brotli"):
        opened(data)


@pytest.mark.parametrize(("name", "module"), [("zstd", "zstandard"), ("brotli", "brotli")])
def test_a_missing_extra_is_named(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match=rf"knowtation-backup\[{name}\]"):
        opened(PACK[name](PLAIN))


def test_nothing_is_truncated() -> None:
    with pytest.raises(TruncatedError):
        unwrap([])


@given(st.sampled_from([b"", b"\x1f\x8b\x08\x00", b"\x28\xb5\x2f\xfd", b"\x0b", b"KTB1"]), st.binary(max_size=100))
def test_arbitrary_bytes_are_unwrapped_or_refused(magic: bytes, data: bytes) -> None:
    with contextlib.suppress(BackupError):
        opened(magic + data)
