"""A real S3 server: options, credentials, reading, and what is said when something is wrong."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError
from s3_server import S3Server
from tcp_proxy import Rule, TcpProxy

from knowtation_backup.errors import (
    BlobExistsError,
    BlobNotFoundError,
    ConfigurationError,
    IntegrityError,
    SinkError,
    SinkPermissionError,
    SinkUnavailableError,
)
from knowtation_backup.sinks.fsspec import FsspecSink

MIB = 1 << 20
NOW = dt.datetime(2031, 5, 6, 7, 8, 9, tzinfo=dt.UTC)
SMALL_PARTS: dict[str, Any] = {"multipart_from_bytes": 5 * MIB, "part_bytes": 5 * MIB}


@pytest.mark.parametrize("size_bytes", [10, 6 * MIB], ids=["one request", "parts"])
def test_objects_carry_what_the_options_say(
    server: S3Server, bucket: str, prefix: str, make_sink: Callable[..., FsspecSink], size_bytes: int
) -> None:
    sink = make_sink(**SMALL_PARTS, storage_class="STANDARD_IA")
    sink.put("a", [b"x" * size_bytes])
    facts = server.client().head_object(Bucket=bucket, Key=f"{prefix}/a", ChecksumMode="ENABLED")
    assert facts["ServerSideEncryption"] == "AES256"
    assert facts["StorageClass"] == "STANDARD_IA"
    assert facts["ChecksumSHA256"]


def test_encryption_by_the_store_can_be_left_out(
    server: S3Server, bucket: str, prefix: str, make_sink: Callable[..., FsspecSink]
) -> None:
    make_sink(server_side_encryption=None).put("a", [b"x"])
    assert "ServerSideEncryption" not in server.client().head_object(Bucket=bucket, Key=f"{prefix}/a")


@pytest.mark.parametrize("size_bytes", [10, 6 * MIB], ids=["one request", "parts"])
def test_a_customers_key_is_needed_to_read(make_sink: Callable[..., FsspecSink], size_bytes: int) -> None:
    sink = make_sink(**SMALL_PARTS, sse_customer_key=b"k" * 32)
    whole = bytes(range(256)) * (size_bytes // 256) + b"end"
    sink.put("a", [whole])
    assert b"".join(sink.read("a")) == whole
    with pytest.raises(SinkError):
        make_sink().stat("a")
    with pytest.raises(SinkError):
        list(make_sink(sse_customer_key=b"l" * 32).read("a"))
    assert "kkkk" not in repr(sink)


def test_locked_blobs_stay_until_their_time(server: S3Server, make_sink: Callable[..., FsspecSink]) -> None:
    bucket = server.make_bucket("locked-bucket", ObjectLockEnabledForBucket=True)
    sink = make_sink(
        place=f"{bucket}/archives",
        object_lock_mode="governance",
        object_lock_for=dt.timedelta(days=30),
        legal_hold=True,
        keywords={"clock": lambda: NOW},
        **SMALL_PARTS,
    )
    sink.put("small", [b"x"])
    sink.put("large", [b"x" * 6 * MIB])
    client = server.client()
    for key in ("archives/small", "archives/large"):
        facts = client.head_object(Bucket=bucket, Key=key)
        assert facts["ObjectLockMode"] == "GOVERNANCE"
        assert facts["ObjectLockRetainUntilDate"] == NOW + dt.timedelta(days=30)
        assert facts["ObjectLockLegalHoldStatus"] == "ON"
        with pytest.raises(ClientError, match="AccessDenied"):
            client.delete_object(Bucket=bucket, Key=key, VersionId=facts["VersionId"])
    with pytest.raises(BlobExistsError):
        sink.put("small", [b"y"])
    assert sink.probe().create_only, "the probe is not locked, and works in such a bucket"
    sink.delete("small")
    with pytest.raises(BlobNotFoundError):
        sink.stat("small")
    versions = client.list_object_versions(Bucket=bucket, Prefix="archives/small")["Versions"]
    assert len(versions) == 1, "deleting a locked blob hides it; its version stays"


def test_object_lock_in_a_bucket_without_it_is_refused(make_sink: Callable[..., FsspecSink]) -> None:
    sink = make_sink(object_lock_mode="compliance", object_lock_for=dt.timedelta(days=1))
    with pytest.raises(SinkError, match="InvalidRequest"):
        sink.put("a", [b"x"])


def test_a_deleted_version_makes_room_for_a_new_blob(server: S3Server, make_sink: Callable[..., FsspecSink]) -> None:
    bucket = server.make_bucket("versions-bucket")
    server.client().put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    sink = make_sink(place=bucket)
    for text in (b"first", b"second"):
        sink.put("a", [text])
        assert b"".join(sink.read("a")) == text
        sink.delete("a")
    assert list(sink.list()) == []
    assert sink.location == f"s3://{bucket}"


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"secret": "planted-wrong-secret"}, "bad_credentials"),
        ({"key": "NOBODY"}, "bad_credentials"),
        ({"key": None, "secret": None, "client_kwargs": {}}, "no_credentials"),
    ],
)
def test_wrong_credentials_are_named_and_not_shown(
    make_sink: Callable[..., FsspecSink], monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], kind: str
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    sink = make_sink(storage_options=settings)
    for act in (lambda: sink.put("a", [b"x"]), lambda: sink.stat("a"), lambda: list(sink.list())):
        with pytest.raises(SinkPermissionError) as caught:
            act()
        assert caught.value.kind == kind
        assert caught.value.hint
        assert "planted" not in f"{caught.value}{caught.value.context}{sink!r}"


def test_a_missing_bucket_is_not_taken_for_a_missing_blob(make_sink: Callable[..., FsspecSink]) -> None:
    sink = make_sink(place="no-such-bucket/prefix")
    actions = (
        lambda: sink.stat("a"),
        lambda: list(sink.read("a")),
        lambda: list(sink.list()),
        lambda: sink.delete("a"),
        lambda: list(sink.leftovers()),
        sink.probe,
        lambda: sink.put("a", [b"x"]),
    )
    for act in actions:
        with pytest.raises(SinkError) as caught:
            act()
        assert caught.value.kind == "no_such_bucket", caught.value


def test_a_url_without_a_bucket_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="bucket"):
        FsspecSink("s3://", storage_options={"key": "a", "secret": "b"})


def test_listings_have_more_than_one_page(make_sink: Callable[..., FsspecSink], proxy: TcpProxy) -> None:
    sink = make_sink(through=proxy, storage_options={"s3_additional_kwargs": {"MaxKeys": 2}})
    for number in range(5):
        sink.put(f"folder/{number}", [b"x" * number])
    assert [info.size_bytes for info in sink.list()] == [0, 1, 2, 3, 4]
    assert sum("list-type" in head for head in proxy.heads) == 3


def test_small_blobs_are_read_in_one_request(make_sink: Callable[..., FsspecSink], proxy: TcpProxy) -> None:
    sink = make_sink(through=proxy)
    sink.put("a", [b"small"])
    proxy.heads.clear()
    assert b"".join(sink.read("a")) == b"small"
    assert [head.split()[0] for head in proxy.heads] == ["GET"]


def test_answers_that_break_off_are_fetched_again(make_sink: Callable[..., FsspecSink], proxy: TcpProxy) -> None:
    sink = make_sink(through=proxy)
    whole = bytes(range(256)) * 80_000
    sink.put("a", [whole])
    rules = [Rule("^GET .*(\r\n.*)*Range: bytes=0-", "cut"), Rule("^GET .*/a ", "refuse", times=2)]
    proxy.rules = rules
    assert b"".join(sink.read("a")) == whole
    assert [rule.applied for rule in rules] == [1, 2]


def test_a_read_given_up_leaves_no_thread(make_sink: Callable[..., FsspecSink]) -> None:
    sink = make_sink()
    sink.put("a", [bytes(30 * MIB)])
    before = threading.active_count()
    reading = sink.read("a")
    next(reading)
    next(reading)
    reading.close()  # type: ignore[attr-defined]  # a generator
    assert threading.active_count() == before


def test_a_blob_replaced_while_it_is_read_is_noticed(
    server: S3Server, bucket: str, prefix: str, make_sink: Callable[..., FsspecSink]
) -> None:
    sink = make_sink(concurrency=1)
    sink.put("a", [b"1" * 30 * MIB])
    reading = sink.read("a")
    next(reading)
    server.client().put_object(Bucket=bucket, Key=f"{prefix}/a", Body=b"2" * 30 * MIB)
    with pytest.raises(IntegrityError, match="replaced") as caught:
        list(reading)
    assert caught.value.kind == "blob_replaced"


def test_the_probe_asks_the_store_and_leaves_one_hidden_object(
    server: S3Server, bucket: str, prefix: str, make_sink: Callable[..., FsspecSink]
) -> None:
    sink = make_sink(conditional=None)
    assert not sink.capabilities.create_only, "not claimed for a store nobody asked"
    for _ in range(2):
        assert sink.probe().create_only
        assert sink.capabilities.create_only
    assert list(sink.list()) == []
    assert list(sink.leftovers()) == []
    found = server.client().list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/")["Contents"]
    assert [facts["Key"] for facts in found] == [f"{prefix}/.conditional-write-probe"]


def test_the_probe_finds_a_store_that_overwrites(make_sink: Callable[..., FsspecSink]) -> None:
    """The server behind a client that drops the header, as stores do that do not know it."""
    sink = make_sink(storage_options={}, conditional=None)
    client = sink._s3._client  # type: ignore[union-attr]  # it is S3
    real = client.call

    def unconditional(method: str, doing: str, **facts: Any) -> Any:
        facts.pop("IfNoneMatch", None)
        return real(method, doing, **facts)

    client.call = unconditional  # type: ignore[method-assign]
    assert not sink.probe().create_only
    assert not sink.capabilities.create_only


def test_aws_is_known_to_create_only() -> None:
    with FsspecSink("s3://bucket", storage_options={"key": "a", "secret": "b"}) as sink:
        assert sink.capabilities.create_only
        assert sink.capabilities.durable


def test_what_is_opened_is_closed(server: S3Server, bucket: str, prefix: str) -> None:
    """With and without `close`, at the end of a program too, and used again after closing."""
    program = f"""
        import gc
        from knowtation_backup.sinks.fsspec import FsspecSink

        def use(name, close):
            sink = FsspecSink("s3://{bucket}/{prefix}", storage_options={server.storage_options()!r})
            sink.put(name, [b"x"])
            if close:
                sink.close()
                sink.close()
                assert b"".join(sink.read(name)) == b"x"
                sink.close()
            return sink

        use("a", True)
        use("b", False)
        gc.collect()
        kept = use("c", False)
    """
    done = subprocess.run(  # noqa: S603 - ours
        [sys.executable, "-W", "error", "-W", "always::ResourceWarning", "-c", textwrap.dedent(program)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_reading_is_refused_in_words(server: S3Server, make_sink: Callable[..., FsspecSink]) -> None:
    bucket = server.make_bucket("no-reading")
    make_sink(place=f"{bucket}/x").put("a", [b"x"])
    server.forbid(bucket, server.writer, "s3:GetObject")
    sink = make_sink(who=server.writer, place=f"{bucket}/x")
    for act in (lambda: sink.stat("a"), lambda: list(sink.read("a"))):
        with pytest.raises(SinkPermissionError, match="AccessDenied"):
            act()


def test_an_endless_refusal_is_unavailable(make_sink: Callable[..., FsspecSink], proxy: TcpProxy) -> None:
    sink = make_sink(through=proxy)
    proxy.rules = [Rule("^GET ", "refuse", times=99)]
    with pytest.raises(SinkUnavailableError):
        list(sink.list())
    # Where a kept-alive connection breaks, the HTTP client tries again once by itself.
    assert 5 <= proxy.rules[0].applied <= 10
