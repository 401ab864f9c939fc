"""Writing to a real S3 server: parts, checksums, lost answers, races, and what killed writers leave."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError
from s3_server import S3Server
from tcp_proxy import Rule, TcpProxy

from knowtation_backup.errors import (
    BlobExistsError,
    BlobNotFoundError,
    SinkError,
    SinkPermissionError,
    SinkUnavailableError,
)
from knowtation_backup.sinks import _s3_client
from knowtation_backup.sinks.fsspec import FsspecSink

MIB = 1 << 20
SMALL_PARTS: dict[str, Any] = {"multipart_from_bytes": 6 * MIB, "part_bytes": 5 * MIB}
BLOCK = os.urandom(MIB)
SLOW_DOWN = b"HTTP/1.1 503 Slow Down\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (
    len(b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"),
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>",
)


def blocks(count: int, tail: bytes = b"") -> Iterator[bytes]:
    for _ in range(count):
        yield BLOCK
    yield tail


def assert_holds(sink: FsspecSink, key: str, count: int, tail: bytes = b"") -> None:
    assert b"".join(sink.read(key)) == BLOCK * count + tail


@pytest.mark.parametrize("checksum", ["sha256", "crc32", "md5", None])
def test_large_blobs_go_in_parts_and_come_back(make_sink: Callable[..., FsspecSink], checksum: str | None) -> None:
    sink = make_sink(**SMALL_PARTS, checksum=checksum)
    assert sink.put("large", blocks(11, b"tail")).size_bytes == 11 * MIB + 4
    assert_holds(sink, "large", 11, b"tail")
    assert b"".join(sink.read("large", start=MIB - 3, size_bytes=9 * MIB)) == (BLOCK * 11)[MIB - 3 :][: 9 * MIB]
    assert list(sink.leftovers()) == []


@pytest.mark.parametrize("case", [(6 * MIB - 1, 0), (6 * MIB, 2), (10 * MIB, 2), (10 * MIB + 1, 3)])
def test_the_threshold_decides_between_one_request_and_parts(
    server: S3Server, bucket: str, prefix: str, make_sink: Callable[..., FsspecSink], case: tuple[int, int]
) -> None:
    size_bytes, parts = case
    sink = make_sink(**SMALL_PARTS)
    whole = (BLOCK * 11)[:size_bytes]
    sink.put("a", [whole[:7], whole[7:]])
    etag = server.client().head_object(Bucket=bucket, Key=f"{prefix}/a")["ETag"].strip('"')
    assert etag.endswith(f"-{parts}") if parts else "-" not in etag
    assert hashlib.sha256(b"".join(sink.read("a"))).digest() == hashlib.sha256(whole).digest()


@pytest.mark.parametrize("large", [False, True], ids=["one request", "parts"])
def test_the_store_refuses_damaged_bytes_and_nothing_is_there(
    make_sink: Callable[..., FsspecSink], monkeypatch: pytest.MonkeyPatch, *, large: bool
) -> None:
    """What the store would see if a byte changed on its way: a checksum of other bytes than those that arrive."""
    sink = make_sink(**SMALL_PARTS)
    wrong = base64.b64encode(hashlib.sha256(b"other bytes").digest()).decode()
    monkeypatch.setattr(_s3_client.Body, "checksum", lambda *_: {"ChecksumSHA256": wrong})
    with pytest.raises(SinkUnavailableError, match="BadDigest") as caught:
        sink.put("a", blocks(7) if large else [b"small"])
    assert caught.value.kind == "upload_damaged"
    assert caught.value.context["attempts"] == 5
    monkeypatch.undo()
    assert list(sink.list()) == []
    assert list(sink.leftovers()) == []


@pytest.mark.parametrize("options", [{}, {"conditional": False}], ids=["conditional", "looking"])
@pytest.mark.parametrize(
    "case",
    [("^PUT .*/a[ ?]", 1), ("^PUT .*/a[?]partNumber=2", 7), ("^POST .*[?]uploads", 7), ("^POST .*[?]uploadId", 7)],
    ids=["put", "part", "begin", "complete"],
)
def test_an_answer_that_is_lost_is_no_failure(
    make_sink: Callable[..., FsspecSink], proxy: TcpProxy, case: tuple[str, int], options: dict[str, Any]
) -> None:
    pattern, count = case
    sink = make_sink(through=proxy, **SMALL_PARTS, **options)
    rule = Rule(pattern, "lose")
    proxy.rules = [rule]
    sink.put("a", blocks(count))
    assert rule.applied == 1
    assert_holds(sink, "a", count)


@pytest.mark.parametrize("pattern", ["^HEAD ", "^PUT ", "^POST .*uploads", "^PUT .*partNumber=1", "^POST .*uploadId"])
@pytest.mark.parametrize("action", ["refuse", "reply"])
def test_a_passing_failure_is_waited_out(
    make_sink: Callable[..., FsspecSink], proxy: TcpProxy, pattern: str, action: Any
) -> None:
    waits: list[float] = []
    sink = make_sink(through=proxy, **SMALL_PARTS, keywords={"sleep": waits.append})
    rule = Rule(pattern, action, times=2, reply=SLOW_DOWN)
    proxy.rules = [rule]
    sink.put("a", blocks(7))
    assert rule.applied == 2
    assert 1 <= len(waits) <= 2, "the HTTP client may repeat one itself on a kept-alive connection"
    assert all(seconds >= 0 for seconds in waits)
    assert_holds(sink, "a", 7)


def test_attempts_are_bounded_and_the_upload_is_aborted(make_sink: Callable[..., FsspecSink], proxy: TcpProxy) -> None:
    sink = make_sink(through=proxy, **SMALL_PARTS)
    rule = Rule("^PUT .*partNumber=2", "reply", times=99, reply=SLOW_DOWN)
    proxy.rules = [rule]
    with pytest.raises(SinkUnavailableError, match="SlowDown") as caught:
        sink.put("a", blocks(22))
    assert rule.applied == 5
    assert caught.value.context["attempts"] == 5
    assert list(sink.list()) == []
    assert list(sink.leftovers()) == []


def test_an_unreachable_store_is_named(server: S3Server, make_sink: Callable[..., FsspecSink]) -> None:
    with TcpProxy(server.port) as closed:
        sink = make_sink(storage_options={"endpoint_url": closed.url})
    with pytest.raises(SinkUnavailableError, match="EndpointConnectionError"):
        sink.put("a", [b"x"])


@pytest.mark.parametrize("failure", [KeyboardInterrupt, GeneratorExit, ValueError])
@pytest.mark.parametrize("after", [6, 22])
def test_a_stream_that_fails_between_parts_leaves_nothing(
    make_sink: Callable[..., FsspecSink], failure: type[BaseException], after: int
) -> None:
    sink = make_sink(**SMALL_PARTS)

    def chunks() -> Iterator[bytes]:
        yield from blocks(after)
        raise failure("planned")

    before = threading.active_count()
    with pytest.raises(failure, match="planned"):
        sink.put("a", chunks())
    assert threading.active_count() == before
    assert list(sink.list()) == []
    assert list(sink.leftovers()) == []
    with pytest.raises(BlobNotFoundError):
        sink.stat("a")


def test_writers_in_parts_are_told_who_won(make_sink: Callable[..., FsspecSink]) -> None:
    """
    This server (4.48) compares and completes in two steps, so that sometimes two writers pass in one instant.

    The replaced one notices when it looks at what it wrote; everybody else hears it from the store.
    """
    sink = make_sink(**SMALL_PARTS)
    barrier = threading.Barrier(4)

    def write(number: int) -> int | None:
        def chunks() -> Iterator[bytes]:
            barrier.wait(timeout=30)
            yield bytes([number]) * (6 * MIB)

        try:
            sink.put("contested", chunks())
        except BlobExistsError:
            return None
        return number

    with ThreadPoolExecutor(4) as pool:
        winners = [number for number in pool.map(write, range(4)) if number is not None]
    assert winners
    assert b"".join(sink.read("contested")) in [bytes([number]) * (6 * MIB) for number in winners]
    assert list(sink.leftovers()) == []


def test_a_writer_replaced_before_it_looks_is_told(
    server: S3Server, bucket: str, prefix: str, make_sink: Callable[..., FsspecSink], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same bytes, same size, same checksum: only the token tells."""
    sink = make_sink()
    real = _s3_client.S3Client.once

    def once(self: Any, method: str, *arguments: Any, **facts: Any) -> Any:
        answer = real(self, method, *arguments, **facts)
        if method == "put_object":
            server.client().put_object(
                Bucket=bucket, Key=f"{prefix}/a", Body=b"x", Metadata={"knowtation-put": "other"}
            )
        return answer

    monkeypatch.setattr(_s3_client.S3Client, "once", once)
    with pytest.raises(BlobExistsError, match="same instant"):
        sink.put("a", [b"x"])


def test_a_writer_in_parts_that_is_overtaken_loses(make_sink: Callable[..., FsspecSink]) -> None:
    sink = make_sink(**SMALL_PARTS)

    def overtaken() -> Iterator[bytes]:
        yield from blocks(12)
        sink.put("a", [b"fast"])

    with pytest.raises(BlobExistsError):
        sink.put("a", overtaken())
    assert b"".join(sink.read("a")) == b"fast"
    assert list(sink.leftovers()) == []


def test_the_same_bytes_of_another_writer_are_not_taken_for_ours(
    make_sink: Callable[..., FsspecSink], proxy: TcpProxy
) -> None:
    """Two writers of one reservation send identical bytes: only one may believe that it has the name."""
    ours = make_sink(through=proxy)
    theirs = make_sink()
    proxy.rules = [Rule("^PUT ", "refuse")]

    def chunks() -> Iterator[bytes]:
        yield b"reserved"
        theirs.put("a", [b"reserved"])

    with pytest.raises(BlobExistsError):
        ours.put("a", chunks())


def test_bytes_in_flight_are_bounded(make_sink: Callable[..., FsspecSink], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a store that answers no part, the stream is read no further than the window."""
    sink = make_sink(**SMALL_PARTS, concurrency=2)
    stuck = threading.Event()
    real = _s3_client.S3Client.call
    read = 0

    def call(self: Any, method: str, *arguments: Any, **facts: Any) -> Any:
        if method == "upload_part":
            stuck.wait(10)
        return real(self, method, *arguments, **facts)

    def chunks() -> Iterator[bytes]:
        nonlocal read
        for block in blocks(22):
            read += len(block)
            if read == 15 * MIB:  # two parts under way, the third collected: it must wait
                threading.Timer(0.2, look).start()
            yield block

    seen: list[int] = []

    def look() -> None:
        seen.append(read)
        stuck.set()

    monkeypatch.setattr(_s3_client.S3Client, "call", call)
    sink.put("a", chunks())
    assert seen
    assert seen == [15 * MIB]


def test_what_a_killed_writer_leaves_is_found_and_ended(
    server: S3Server, bucket: str, prefix: str, make_sink: Callable[..., FsspecSink]
) -> None:
    program = f"""
        import os
        from knowtation_backup.sinks.fsspec import FsspecSink
        from knowtation_backup.sinks.s3_options import S3Options

        options = S3Options(multipart_from_bytes=6 << 20, part_bytes=5 << 20, concurrency=1)
        sink = FsspecSink("s3://{bucket}/{prefix}", storage_options={server.storage_options()!r}, s3=options)

        def chunks():
            for _ in range(22):
                yield b"x" * (1 << 20)
            os._exit(7)

        sink.put("archives/half.bin", chunks())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)  # noqa: S603 - ours
    assert done.returncode == 7
    sink = make_sink()
    assert list(sink.list()) == []
    [leftover] = sink.leftovers()
    assert leftover.path == "archives/half.bin"
    assert leftover.upload_id
    assert 0 < leftover.size_bytes <= 22 * MIB
    assert leftover.modified_at is not None
    now = leftover.modified_at
    assert sink.remove_leftovers(now=now + dt.timedelta(hours=23)) == ()
    assert sink.remove_leftovers(now=now + dt.timedelta(hours=25)) == (leftover,)
    assert list(sink.leftovers()) == []
    sink._store.remove_leftover(leftover)  # gone already is fine
    sink.put("archives/half.bin", [b"the second run"])


def test_an_upload_that_somebody_ends_is_a_failure(
    server: S3Server, bucket: str, prefix: str, make_sink: Callable[..., FsspecSink]
) -> None:
    sink = make_sink(**SMALL_PARTS)

    def chunks() -> Iterator[bytes]:
        yield from blocks(12)
        uploads = server.client().list_multipart_uploads(Bucket=bucket, Prefix=f"{prefix}/")["Uploads"]
        for facts in uploads:
            server.client().abort_multipart_upload(Bucket=bucket, Key=facts["Key"], UploadId=facts["UploadId"])

    with pytest.raises(SinkError) as caught:
        sink.put("a", chunks())
    assert caught.value.kind == "upload_gone"
    assert list(sink.list()) == []


def test_a_writer_that_may_only_append(server: S3Server, make_sink: Callable[..., FsspecSink]) -> None:
    """The whole of a backup's needs, with credentials that cannot destroy what is there."""
    bucket = server.make_bucket("append-only")
    server.client().put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    server.forbid(bucket, server.writer, "s3:DeleteObject", "s3:DeleteObjectVersion", "s3:PutBucketVersioning")
    sink = make_sink(who=server.writer, place=f"{bucket}/archives", **SMALL_PARTS)
    sink.put("small", [b"first"])
    sink.put("large", blocks(7))
    assert [info.key for info in sink.list()] == ["large", "small"]
    assert b"".join(sink.read("small")) == b"first"
    assert sink.probe().create_only
    for key in ("small", "large"):
        with pytest.raises(SinkPermissionError, match="AccessDenied"):
            sink.delete(key)
    # An intruder who has these credentials may go around the library, and still destroys nothing: versions stay.
    intruder = server.client(server.writer)
    intruder.put_object(Bucket=bucket, Key="archives/small", Body=b"overwritten")
    versions = server.client().list_object_versions(Bucket=bucket, Prefix="archives/small")["Versions"]
    oldest = min(versions, key=lambda version: version["LastModified"])["VersionId"]
    contents = {
        server.client().get_object(Bucket=bucket, Key="archives/small", VersionId=facts["VersionId"])["Body"].read()
        for facts in versions
    }
    assert contents == {b"first", b"overwritten"}
    with pytest.raises(ClientError, match="AccessDenied"):
        intruder.delete_object(Bucket=bucket, Key="archives/small", VersionId=oldest)
