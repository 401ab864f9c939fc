"""Bodies of S3 requests, and the store's errors in our words; no server needed."""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import pickle
import zlib
from typing import Any

import pytest
from botocore import exceptions as vendor

from knowtation_backup.errors import (
    BackupError,
    BlobExistsError,
    BlobNotFoundError,
    ConfigurationError,
    SinkError,
    SinkFullError,
    SinkPermissionError,
    SinkUnavailableError,
)
from knowtation_backup.sinks._s3_client import Body
from knowtation_backup.sinks._s3_errors import translate
from knowtation_backup.sinks._s3_upload import _composite, _parts

PIECES: list[bytes | memoryview] = [b"", b"ab", b"c" * 300_000, b"", memoryview(b"d" * 700_001), b"e"]
WHOLE = b"".join(PIECES)


def answer(code: str, status: int, message: str = "said the store", **headers: str) -> vendor.ClientError:
    meta = {"HTTPStatusCode": status, "HTTPHeaders": headers}
    return vendor.ClientError({"Error": {"Code": code, "Message": message}, "ResponseMetadata": meta}, "PutObject")


@pytest.mark.parametrize(
    ("error", "expected", "kind"),
    [
        (answer("NoSuchBucket", 404), SinkError, "no_such_bucket"),
        (answer("NoSuchKey", 404), BlobNotFoundError, "blob_not_found"),
        (answer("404", 404), BlobNotFoundError, "blob_not_found"),
        (answer("NoSuchUpload", 404), SinkError, "upload_gone"),
        (answer("PreconditionFailed", 412), BlobExistsError, "blob_exists"),
        (answer("ConditionalRequestConflict", 409), SinkUnavailableError, "sink_unavailable"),
        (answer("AccessDenied", 403), SinkPermissionError, "sink_permission"),
        (answer("SomethingNew", 403), SinkPermissionError, "sink_permission"),
        (answer("SignatureDoesNotMatch", 403), SinkPermissionError, "bad_credentials"),
        (answer("ExpiredToken", 400), SinkPermissionError, "bad_credentials"),
        (answer("RequestTimeTooSkewed", 403), SinkPermissionError, "clock_skew"),
        (answer("QuotaExceeded", 403), SinkFullError, "no_space"),
        (answer("XMinioStorageFull", 507), SinkFullError, "no_space"),
        (answer("EntityTooLarge", 400), SinkFullError, "file_too_large"),
        (answer("BadDigest", 400), SinkUnavailableError, "upload_damaged"),
        (answer("PermanentRedirect", 301), SinkError, "wrong_region"),
        (answer("NotImplemented", 501), SinkError, "store_unsupported"),
        (answer("InvalidObjectState", 403), SinkError, "blob_archived"),
        (answer("SlowDown", 503), SinkUnavailableError, "sink_unavailable"),
        (answer("", 429), SinkUnavailableError, "sink_unavailable"),
        (answer("Odd", 599), SinkUnavailableError, "sink_unavailable"),
        (answer("InvalidRequest", 400), SinkError, "sink"),
        (vendor.NoCredentialsError(), SinkPermissionError, "no_credentials"),
        (vendor.ParamValidationError(report="SECRET"), ConfigurationError, "bad_option"),
        (vendor.ProfileNotFound(profile="p"), ConfigurationError, "configuration"),
        (vendor.SSLError(endpoint_url="https://s", error="expired"), SinkError, "tls"),
        (vendor.EndpointConnectionError(endpoint_url="https://s"), SinkUnavailableError, "sink_unavailable"),
        (vendor.ReadTimeoutError(endpoint_url="https://s"), SinkUnavailableError, "sink_unavailable"),
        (OSError(errno.ENOSPC, "No space"), SinkFullError, "no_space"),
        (RuntimeError("odd"), SinkUnavailableError, "sink_unavailable"),
    ],
    ids=str,
)
def test_errors_are_named(error: Exception, expected: type[BackupError], kind: str) -> None:
    found = translate(error, "writing a in s3://b")
    assert (type(found), found.kind) == (expected, kind)
    assert "writing a in s3://b" in str(found)
    assert "SECRET" not in str(found)
    assert pickle.loads(pickle.dumps(found)).kind == kind  # noqa: S301 - our own bytes


def test_an_error_of_ours_is_left_as_it_is() -> None:
    ours = SinkFullError("full")
    assert translate(ours, "writing") is ours


def test_a_wrapped_answer_is_found() -> None:
    outer = PermissionError("wrapped")
    outer.__cause__ = answer("SlowDown", 503)
    assert isinstance(translate(outer, "writing"), SinkUnavailableError)


def test_the_store_may_ask_for_a_wait() -> None:
    found = translate(answer("SlowDown", 503, **{"retry-after": "7"}), "writing")
    assert found.context == {"code": "SlowDown", "status": 503, "retry_after_seconds": 7.0}


def test_secrets_in_the_stores_words_are_hidden() -> None:
    found = translate(answer("Odd", 400, "your secret planted-1 is odd"), "writing", secrets=["planted-1", ""])
    assert "planted" not in str(found)
    assert "your secret … is odd" in str(found)


def test_a_body_is_sent_without_being_joined_and_can_be_sent_again() -> None:
    body = Body(PIECES)

    async def sent() -> list[bytes]:
        return [bytes(block) async for block in body]

    for _ in range(2):
        found = asyncio.run(sent())
        assert b"".join(found) == WHOLE
        assert max(map(len, found)) <= 512 << 10
    assert len(body) == len(WHOLE)


def test_a_body_reads_like_a_file() -> None:
    body = Body(PIECES)
    assert body.read(5) == WHOLE[:5]
    assert body.tell() == 5
    assert body.read(300_000) == WHOLE[5:300_005]
    assert body.read() == WHOLE[300_005:]
    assert body.read(1) == b""
    assert body.seek(-3, 2) == len(WHOLE) - 3
    assert body.read() == WHOLE[-3:]
    assert body.seek(0) == 0
    assert body.read() == WHOLE


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        (None, {}),
        ("sha256", {"ChecksumSHA256": base64.b64encode(hashlib.sha256(WHOLE).digest()).decode()}),
        ("crc32", {"ChecksumCRC32": base64.b64encode(zlib.crc32(WHOLE).to_bytes(4, "big")).decode()}),
        ("md5", {"ContentMD5": base64.b64encode(hashlib.md5(WHOLE, usedforsecurity=False).digest()).decode()}),
    ],
)
def test_checksums_are_of_the_whole_body(algorithm: str | None, expected: dict[str, str]) -> None:
    assert Body(PIECES).checksum(algorithm) == expected


@pytest.mark.parametrize(
    "chunks", [[], [b""], [WHOLE], PIECES, [WHOLE[i : i + 1000] for i in range(0, len(WHOLE), 1000)]]
)
def test_parts_have_equal_sizes_whatever_the_chunks(chunks: list[Any]) -> None:
    found = [b"".join(part) for part in _parts(chunks, 4096)]
    assert b"".join(found) == b"".join(chunks)
    assert {len(part) for part in found[:-1]} <= {4096}
    assert all(found)


def test_later_parts_are_larger_so_that_ten_thousand_reach_far() -> None:
    sizes = [sum(map(len, part)) for part in _parts([b"x" * 5_000, b"y" * 10], 1)]
    assert sizes == [1] * 5_000 + [4, 4, 2]


def test_the_checksum_of_an_object_in_parts_is_that_of_its_parts() -> None:
    digests = [hashlib.sha256(part).digest() for part in (b"a", b"b")]
    listed = [{"ChecksumSHA256": base64.b64encode(digest).decode()} for digest in digests]
    expected = base64.b64encode(hashlib.sha256(b"".join(digests)).digest()).decode()
    assert _composite(listed) == f"{expected}-2"
