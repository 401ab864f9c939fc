"""Local directories: private, durable, create-only, and only regular files are blobs."""

import ctypes
import datetime as dt
import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from knowtation_backup._engine import local_files
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
from knowtation_backup.sinks.fsspec import FsspecSink, Leftover


@pytest.fixture
def sink(tmp_path: Path) -> FsspecSink:
    return FsspecSink(tmp_path / "store")


def everything(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


def test_files_are_0600_and_directories_0700_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        FsspecSink(tmp_path / "a" / "b").put("side/x/details.json", [b"x"])
    finally:
        os.umask(old)
    modes = {str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {
        "a": 0o700,
        "a/b": 0o700,
        "a/b/side": 0o700,
        "a/b/side/x": 0o700,
        "a/b/side/x/details.json": 0o600,
    }


def test_it_promises_create_only_and_durable(sink: FsspecSink) -> None:
    assert (sink.capabilities.create_only, sink.capabilities.durable, sink.capabilities.deletable) == (True, True, True)


def test_bytes_reach_the_disk_before_the_name_and_the_name_before_the_end(
    sink: FsspecSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink.put("first", [b"x"])
    calls: list[str] = []

    def spy(name: str) -> None:
        real: Callable[..., Any] = getattr(os, name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            is_directory = name == "fsync" and stat.S_ISDIR(os.fstat(args[0]).st_mode)
            calls.append("fsync directory" if is_directory else name)
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, wrapper)

    for name in ("write", "fsync", "link", "unlink"):
        spy(name)
    sink.put("second", [b"x"])
    # The last unlink finds nothing: it is the net for interruptions.
    assert calls == ["write", "fsync", "link", "unlink", "fsync directory", "unlink"]


@pytest.mark.parametrize(
    "case",
    [
        (errno.ENOSPC, SinkFullError, "no_space"),
        (errno.EDQUOT, SinkFullError, "no_space"),
        (errno.EFBIG, SinkFullError, "file_too_large"),
        (errno.EACCES, SinkPermissionError, "sink_permission"),
        (errno.EROFS, SinkPermissionError, "sink_permission"),
        (errno.EIO, SinkUnavailableError, "sink_unavailable"),
        (errno.ESTALE, SinkUnavailableError, "sink_unavailable"),
        (errno.EMFILE, SinkError, "out_of_resources"),
    ],
)
@pytest.mark.parametrize("call", ["open", "write", "fsync", "link"])
def test_an_error_of_any_call_leaves_nothing_and_has_its_name(
    sink: FsspecSink, monkeypatch: pytest.MonkeyPatch, call: str, case: tuple[int, type[SinkError], str]
) -> None:
    code, expected, kind = case
    sink.put("side/other", [b"x"])
    real: Callable[..., Any] = getattr(os, call)

    def fail(*args: Any, **kwargs: Any) -> Any:
        if call == "open" and not local_files.is_temporary(str(args[0])):
            return real(*args, **kwargs)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(expected) as caught:
        sink.put("side/blob", [b"x" * 300_000, b"y"])
    monkeypatch.undo()
    assert caught.value.kind == kind
    assert caught.value.context["errno"] == code
    assert everything(Path(sink.location)) == ["side/other"]
    if expected is SinkFullError and call != "open":
        assert "more than 300001 bytes are needed" in caught.value.hint or call == "write"
        assert "bytes are free" in caught.value.hint


def test_without_hard_links_an_exclusive_rename_publishes(sink: FsspecSink, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    sink.put("a", [b"first"])

    def overtaken() -> Iterator[bytes]:
        yield b"second"
        sink.put("b", [b"faster"])

    with pytest.raises(BlobExistsError):
        sink.put("b", overtaken())
    assert b"".join(sink.read("b")) == b"faster"
    assert everything(Path(sink.location)) == ["a", "b"]


def test_a_file_system_that_can_do_neither_is_refused(sink: FsspecSink, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_args, **_kwargs: object())
    with pytest.raises(SinkError) as caught:
        sink.put("a", [b"x"])
    assert caught.value.kind == "publish_unsupported"
    assert everything(Path(sink.location)) == []


def test_only_regular_files_with_valid_names_are_blobs(sink: FsspecSink, tmp_path: Path) -> None:
    sink.put("good", [b"x"])
    root = Path(sink.location)
    secret = tmp_path / "outside"
    secret.mkdir()
    (secret / "file").write_bytes(b"secret")
    (root / "link").symlink_to(secret / "file")
    (root / "linked").symlink_to(secret)
    (root / "folder").mkdir()
    (root / ".hidden").write_bytes(b"x")
    (root / ".hidden-folder").mkdir()
    (root / ".hidden-folder" / "file").write_bytes(b"x")
    (root / "with space").write_bytes(b"x")
    os.mkfifo(root / "pipe")
    assert [info.key for info in sink.list()] == ["good"]
    assert [info.key for info in sink.list("linked/")] == []
    for key in ("link", "folder", "pipe"):
        for act in (sink.stat, sink.delete, lambda key: list(sink.read(key))):
            with pytest.raises(BlobNotFoundError):
                act(key)
        with pytest.raises(BlobExistsError):
            sink.put(key, [b"x"])
    for act in (sink.stat, sink.delete, lambda key: list(sink.read(key)), lambda key: sink.put(key, [b"x"])):
        with pytest.raises(SinkError, match="Not a directory"):
            act("linked/file")
    assert (secret / "file").read_bytes() == b"secret"
    assert [path.name for path in secret.iterdir()] == ["file"]


def test_a_file_in_place_of_a_directory_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for sink in (FsspecSink(tmp_path / "file"), FsspecSink(tmp_path / "file" / "below")):
        with pytest.raises(SinkError) as caught:
            sink.put("a", [b"x"])
        assert caught.value.kind == "bad_path"


def test_a_name_too_long_for_the_file_system_is_refused(sink: FsspecSink) -> None:
    with pytest.raises(SinkError) as caught:
        sink.put("x" * 300, [b"x"])
    assert caught.value.kind == "bad_path"
    assert everything(Path(sink.location)) == []


def test_a_relative_path_means_the_directory_of_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sink = FsspecSink("here")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    sink.put("a", [b"x"])
    assert (tmp_path / "here" / "a").read_bytes() == b"x"


def test_deleting_removes_the_directories_it_empties_but_not_the_root(sink: FsspecSink) -> None:
    sink.put("a/b/c", [b"x"])
    sink.delete("a/b/c")
    assert list(Path(sink.location).iterdir()) == []


def test_a_directory_tidied_away_under_a_writer_is_made_again(
    sink: FsspecSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink.put("side/keep", [b"x"])
    root = Path(sink.location)
    real = os.open
    spoiled: list[str] = []

    def spoil(path: Any, *args: Any, **kwargs: Any) -> int:
        if local_files.is_temporary(str(path)) and not spoiled:
            spoiled.append(str(path))
            (root / "side" / "x").rmdir()
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", spoil)
    sink.put("side/x/blob", [b"x"])
    assert spoiled
    assert (root / "side" / "x" / "blob").read_bytes() == b"x"


def test_leftovers_are_named_and_removed_by_age_only(sink: FsspecSink) -> None:
    sink.put("side/x/blob", [b"x"])
    root = Path(sink.location)
    now = dt.datetime(2026, 4, 8, tzinfo=dt.UTC)
    for name, age_hours in (("side/x/.upload-0123456789abcdef.tmp", 48), (".upload-fedcba9876543210.tmp", 1)):
        (root / name).write_bytes(b"half")
        moment = now.timestamp() - age_hours * 3600
        os.utime(root / name, (moment, moment))
    (root / ".other-tool.tmp").write_bytes(b"x")
    assert [info.key for info in sink.list()] == ["side/x/blob"]
    assert {item.path: item.size_bytes for item in sink.leftovers()} == {
        ".upload-fedcba9876543210.tmp": 4,
        "side/x/.upload-0123456789abcdef.tmp": 4,
    }
    removed = sink.remove_leftovers(now=now)
    assert [item.path for item in removed] == ["side/x/.upload-0123456789abcdef.tmp"]
    assert everything(root) == [".other-tool.tmp", ".upload-fedcba9876543210.tmp", "side/x/blob"]
    assert sink.remove_leftovers(now=now, older_than=dt.timedelta(0))[0].path == ".upload-fedcba9876543210.tmp"
    assert sink.remove_leftovers(now=now, older_than=dt.timedelta(0)) == ()


def test_only_leftovers_can_be_removed_as_leftovers(sink: FsspecSink) -> None:
    sink.put("blob", [b"x"])
    forged = Leftover(path="blob", size_bytes=1, modified_at=None)
    with pytest.raises(ConfigurationError):
        sink._store.remove_leftover(forged)
    assert b"".join(sink.read("blob")) == b"x"


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A directory, and for root the identity of somebody whom modes bind."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own directories are closed to others
        root = Path(name)
        root.chmod(0o755)
        privileged = os.geteuid() == 0
        if privileged:
            os.seteuid(65534)
        try:
            yield root
        finally:
            if privileged:
                os.seteuid(0)


def test_a_directory_without_write_permission_is_a_permission_error(unprivileged: Path) -> None:
    me = os.geteuid()
    os.seteuid(os.getuid())
    (unprivileged / "store").mkdir()
    (unprivileged / "store" / "old").write_bytes(b"kept")
    (unprivileged / "store" / "old").chmod(0o644)
    (unprivileged / "store" / "sealed").write_bytes(b"kept")
    (unprivileged / "store" / "sealed").chmod(0)
    (unprivileged / "store").chmod(0o555)
    os.seteuid(me)
    sink = FsspecSink(unprivileged / "store")
    with pytest.raises(SinkPermissionError, match="Permission denied"):
        sink.put("new", [b"x"])
    with pytest.raises(SinkPermissionError):
        sink.put("deeper/new", [b"x"])
    with pytest.raises(SinkPermissionError):
        sink.delete("old")
    with pytest.raises(SinkPermissionError):
        list(sink.read("sealed"))
    assert b"".join(sink.read("old")) == b"kept"
    assert [info.key for info in sink.list()] == ["old", "sealed"]
    os.seteuid(os.getuid())
    (unprivileged / "store").chmod(0o755)
    assert everything(unprivileged / "store") == ["old", "sealed"]


@pytest.mark.parametrize(
    ("target", "kind"),
    [("nosuch://x", "no_such_filesystem"), ("https://example.invalid/x", "publish_unknown")],
)
def test_places_nobody_vouches_for_are_refused_at_once(target: str, kind: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        FsspecSink(target)
    assert caught.value.kind == kind


def test_credentials_in_options_show_nowhere() -> None:
    secret = "hunter2-hunter2"
    try:
        sink = FsspecSink("s3://bucket/prefix", storage_options={"key": "id", "secret": secret})
        shown = repr(sink) + sink.location
    except BackupError as error:
        shown = repr(error) + str(error)
    assert secret not in shown
    assert "bucket/prefix" in shown
