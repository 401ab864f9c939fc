"""Files of evidence from nowhere: whatever they hold, they are refused by name."""

from __future__ import annotations

import contextlib
import hashlib
import struct
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowtation_backup._engine.canonical import dumps
from knowtation_backup.errors import IntegrityError, UnsupportedFormatError
from knowtation_backup.exports.evidence import EvidenceFile, EvidenceHeader, EvidenceWriter
from knowtation_backup.exports.replaying import verify_export_evidence
from knowtation_backup.model.ids import ANONYMOUS, Principal

MAGIC = b"knowtation-backup evidence 1\n"
HEADER = EvidenceHeader(
    kind="knowtation-operator-full-export",
    canister_id=Principal(b"\x00\x00\x00\x00\x00\x10\x00\x01\x01\x01"),
    sender=ANONYMOUS,
    run_id=b"r" * 16,
    exported_at="2026-04-08T15:30:22.123Z",
    options={"on_error": "fail", "only": None, "reply_bytes": 100},
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = ("number", "method", "url", "headers", "arg", "arg_sha256", "replies", "known_paths", "kind", "options", "only")


def file_of(*frames: bytes, end: bytes) -> bytes:
    body = MAGIC + b"".join(struct.pack(">I", len(frame)) + frame for frame in frames)
    return body + struct.pack(">I", len(end) + 33) + b"E" + end + hashlib.sha256(body).digest()


def sized(*parts: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def test_an_empty_file_is_read_back() -> None:
    file = EvidenceFile.parse(EvidenceWriter(HEADER, limit_bytes=10_000).finish([["u", "v", ["a.md"]]]))
    assert file.header == HEADER
    assert (file.records, file.known_paths) == ((), {("u", "v"): ("a.md",)})


def test_no_replies_prove_nothing() -> None:
    data = EvidenceWriter(HEADER, limit_bytes=10_000).finish()
    with pytest.raises(IntegrityError):  # options are missing
        verify_export_evidence(data, [b"{}"])


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(noise: bytes) -> None:
    for data in (noise, MAGIC + noise, file_of(noise, end=b"{}"), file_of(b"H{}", b"R" + noise, b"B\x80", end=b"{}")):
        with pytest.raises((IntegrityError, UnsupportedFormatError)):
            EvidenceFile.parse(data)


@given(
    st.dictionaries(st.sampled_from(KEYS), JSON), st.dictionaries(st.sampled_from(KEYS), JSON), st.binary(max_size=40)
)
def test_arbitrary_json_is_refused(head: dict[str, Any], end: dict[str, Any], call: bytes) -> None:
    record = b"R" + sized(dumps(head), call) + b"x"
    with pytest.raises(IntegrityError):
        EvidenceFile.parse(file_of(b"H" + HEADER.to_bytes(), record, b"B\x80", end=dumps({"replies": 1, **end})))
    with pytest.raises(IntegrityError):
        EvidenceFile.parse(file_of(b"H" + dumps(head), b"B\x80", end=dumps({"replies": 0, "known_paths": []})))


@given(st.dictionaries(st.sampled_from(["on_error", "consistency", "only", "reply_bytes", "extra_users"]), JSON))
def test_arbitrary_options_are_refused(options: dict[str, Any]) -> None:
    header = attrs.evolve(HEADER, options=options)
    data = EvidenceWriter(header, limit_bytes=10_000).finish()
    with contextlib.suppress(IntegrityError):
        assert not verify_export_evidence(data, [b"{}"]).ok


def test_a_new_file_counts_from_one() -> None:
    writer = EvidenceWriter(HEADER, limit_bytes=1)
    assert (writer.replies, writer.certified_from, writer.certified_to) == (0, None, None)
    assert [writer.next_number(), writer.next_number()] == [1, 2]
