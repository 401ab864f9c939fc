"""Other file systems of fsspec: their errors in our words, and trouble never taken for absence."""

import datetime as dt
import errno
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from knowtation_backup.errors import (
    BackupError,
    BlobExistsError,
    BlobNotFoundError,
    SinkError,
    SinkFullError,
    SinkPermissionError,
    SinkUnavailableError,
    TruncatedError,
)
from knowtation_backup.sinks.fsspec import FsspecSink


class VendorError(Exception):
    """As vendors raise: no relation to OSError."""


class Walking(MemoryFileSystem):  # type: ignore[misc]  # fsspec ships no types
    """Lists by fsspec's own walk, which takes every error for an empty directory unless told otherwise."""

    cachable = False
    find = AbstractFileSystem.find


@pytest.fixture
def filesystem() -> MemoryFileSystem:
    return Walking()


@pytest.fixture
def sink(filesystem: MemoryFileSystem) -> Iterator[FsspecSink]:
    root = f"/test-{uuid.uuid4().hex}"
    sink = FsspecSink(filesystem, root, publish="rename")
    sink.put("folder/blob", [b"x" * 100])
    yield sink
    filesystem.rm(root, recursive=True)


@pytest.mark.parametrize(
    "case",
    [
        (OSError(errno.ENOSPC, "No space"), SinkFullError),
        (PermissionError("denied"), SinkPermissionError),
        (PermissionError(errno.EACCES, "Access Denied"), SinkPermissionError),
        (ConnectionResetError("reset"), SinkUnavailableError),
        (TimeoutError("late"), SinkUnavailableError),
        (OSError("no number"), SinkUnavailableError),
        (OSError(errno.EINVAL, "The bucket name is not valid"), SinkError),
        (VendorError("throttled"), SinkUnavailableError),
    ],
)
@pytest.mark.parametrize("call", ["info", "ls", "cat_file", "_open", "mv", "rm_file"])
def test_every_error_of_every_call_is_translated(
    sink: FsspecSink,
    filesystem: MemoryFileSystem,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    case: tuple[Exception, type[BackupError]],
) -> None:
    raised, expected = case

    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise raised

    monkeypatch.setattr(filesystem, call, fail)
    actions: dict[str, Callable[[], object]] = {
        "info": lambda: sink.stat("folder/blob"),
        "ls": lambda: list(sink.list()),
        "cat_file": lambda: list(sink.read("folder/blob")),
        "_open": lambda: sink.put("new", [b"x"]),
        "mv": lambda: sink.put("new", [b"x"]),
        "rm_file": lambda: sink.delete("folder/blob"),
    }
    with pytest.raises(expected) as caught:
        actions[call]()
    assert str(raised.args[-1]) in str(caught.value)
    monkeypatch.undo()
    assert [info.key for info in sink.list()] == ["folder/blob"]
    assert list(sink.leftovers()) == []


def test_a_key_that_cannot_be_looked_at_is_not_taken_for_free(
    sink: FsspecSink, filesystem: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise ConnectionResetError("reset")

    monkeypatch.setattr(filesystem, "info", fail)
    with pytest.raises(SinkUnavailableError):
        sink.put("folder/blob", [b"new"])
    monkeypatch.undo()
    assert b"".join(sink.read("folder/blob")) == b"x" * 100


def test_a_writer_overtaken_before_its_rename_loses(sink: FsspecSink) -> None:
    def overtaken() -> Iterator[bytes]:
        yield b"slow"
        sink.put("new", [b"fast"])

    with pytest.raises(BlobExistsError):
        sink.put("new", overtaken())
    assert b"".join(sink.read("new")) == b"fast"
    assert not sink.capabilities.create_only, "and yet nothing can be promised between looking and renaming"


def test_a_blob_that_shrinks_while_it_is_read_is_truncated(
    sink: FsspecSink, filesystem: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystem, "cat_file", lambda *_args, **_kwargs: b"x" * 99)
    with pytest.raises(TruncatedError) as caught:
        list(sink.read("folder/blob"))
    assert caught.value.context["offset"] == 99


def test_a_store_that_keeps_less_than_it_was_given_is_noticed(
    sink: FsspecSink, filesystem: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = filesystem.mv

    def cutting(old: str, new: str, **kwargs: Any) -> None:
        filesystem.pipe_file(old, filesystem.cat_file(old)[:-1])
        real(old, new, **kwargs)

    monkeypatch.setattr(filesystem, "mv", cutting)
    with pytest.raises(TruncatedError):
        sink.put("new", [b"abc"])


def test_leftovers_of_a_killed_writer_are_found_and_removed(sink: FsspecSink, filesystem: MemoryFileSystem) -> None:
    root = sink.location.removeprefix("memory://")
    filesystem.pipe_file(f"/{root}/folder/.upload-0123456789abcdef.tmp", b"half")
    assert [item.path for item in sink.leftovers()] == ["folder/.upload-0123456789abcdef.tmp"]
    assert [info.key for info in sink.list()] == ["folder/blob"]
    now = dt.datetime.now(dt.UTC)
    assert sink.remove_leftovers(now=now) == ()
    assert len(sink.remove_leftovers(now=now + dt.timedelta(days=2))) == 1
    assert list(sink.leftovers()) == []


def test_directories_are_no_blobs(sink: FsspecSink) -> None:
    with pytest.raises(BlobNotFoundError, match="is a directory"):
        sink.stat("folder")
    with pytest.raises(BlobExistsError):
        sink.put("folder", [b"x"])


def test_the_process_memory_is_create_only_but_not_durable() -> None:
    sink = FsspecSink("memory://somewhere")
    assert (sink.capabilities.create_only, sink.capabilities.durable) == (True, False)
    assert sink.location == "memory://somewhere"
