"""What SFTP adds to the contract: rights, hosts, connections that break, and what its servers can and cannot do."""

import contextlib
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sftp_server as servers
from sftp_server import SinkAt, open_sink

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
from knowtation_backup.sinks.fsspec import FsspecSink
from knowtation_backup.sinks.retrying import RetryingSink


def test_files_and_directories_are_private(sink: FsspecSink, tmp_path: Path) -> None:
    sink.put("a/b", [b"x"])
    made = [path for path in tmp_path.rglob("*") if path.name in {"not", "yet", "a", "b"}]
    assert {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in made} == {
        "not": "0o700",
        "yet": "0o700",
        "a": "0o700",
        "b": "0o600",
    }


def test_of_writers_on_several_connections_one_wins(server: servers.SftpServer, tmp_path: Path) -> None:
    """The rename of fsspec would let the last one win over all that succeeded before."""
    barrier = threading.Barrier(4)

    def write(number: int) -> int | None:
        with open_sink(server, tmp_path / "root") as sink:
            assert sink.capabilities.create_only

            def chunks() -> Iterator[bytes]:
                barrier.wait(timeout=20)
                yield bytes([number]) * 1000

            try:
                sink.put("contested", chunks())
            except BlobExistsError:
                return None
            return number

    with ThreadPoolExecutor(4) as pool:
        winners = [number for number in pool.map(write, range(4)) if number is not None]
    assert len(winners) == 1
    assert (tmp_path / "root" / "contested").read_bytes() == bytes(winners) * 1000


def test_leftovers_are_found_and_removed_by_name(sink: FsspecSink, tmp_path: Path) -> None:
    sink.put("a/b", [b"x"])
    root = tmp_path / "not" / "made" / "yet"
    (root / "a" / ".upload-0123456789abcdef.tmp").write_bytes(b"half")
    (found,) = sink.leftovers()
    assert (found.path, found.size_bytes) == ("a/.upload-0123456789abcdef.tmp", 4)
    assert [info.key for info in sink.list()] == ["a/b"]
    assert found.modified_at is not None
    assert sink.remove_leftovers(now=found.modified_at) == ()
    sink._store.remove_leftover(found)
    assert list(sink.leftovers()) == []


def test_links_and_directories_are_no_blobs(sink: FsspecSink, tmp_path: Path) -> None:
    sink.put("a/b", [b"x"])
    root = tmp_path / "not" / "made" / "yet"
    (root / "link").symlink_to(root / "a" / "b")
    (root / "directory-link").symlink_to(root / "a")
    assert [info.key for info in sink.list()] == ["a/b"]
    for key in ("link", "a"):
        with pytest.raises(BlobNotFoundError):
            sink.stat(key)


def test_a_read_goes_on_over_a_new_connection(server: servers.SftpServer, tmp_path: Path) -> None:
    data = bytes(range(256)) * 8192
    with open_sink(server, tmp_path) as sink:
        sink.put("a", [data])
        retrying = RetryingSink(sink, sleep=lambda _seconds: None)
        received = b""
        dropped = False
        for chunk in retrying.read("a"):
            received += chunk
            if not dropped:
                server.drop()
                dropped = True
        assert received == data
        server.drop()
        with contextlib.suppress(SinkUnavailableError):  # unless it was noticed before
            sink.stat("a")
        assert sink.stat("a").size_bytes == len(data), "the next operation connects again"


def test_a_broken_connection_publishes_nothing(server: servers.SftpServer, tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield bytes(3 << 20)
        server.drop()
        yield bytes(3 << 20)

    with open_sink(server, tmp_path) as sink:
        with pytest.raises(SinkUnavailableError):
            sink.put("a", chunks())
        assert list(sink.list()) == []
        # What could not be tidied up over the dead connection was tidied up over the next.
        assert list(sink.leftovers()) == []
        assert RetryingSink(sink, sleep=lambda _seconds: None).put("a", [b"x"]).size_bytes == 1


def test_a_large_put_is_spooled_and_sent_again(server: servers.SftpServer, tmp_path: Path) -> None:
    dropped = threading.Event()

    def chunks() -> Iterator[bytes]:
        for number in range(6):
            yield bytes([number]) * (1 << 20)
            if number == 4 and not dropped.is_set():
                dropped.set()
                server.drop()

    with open_sink(server, tmp_path / "store") as sink:
        retrying = RetryingSink(sink, repeat_bytes=1 << 20, spool_directory=tmp_path, sleep=lambda _seconds: None)
        assert retrying.put("a", chunks()).size_bytes == 6 << 20
        assert b"".join(sink.read("a")) == b"".join(bytes([number]) * (1 << 20) for number in range(6))


def refusal(path: Path, **changes: object) -> BackupError:
    with servers.sftp_server() as server:
        options = {**server.options, "host_key_policy": "auto_add", **changes}
        with pytest.raises(BackupError) as caught:
            FsspecSink(f"sftp://{path}", storage_options=options)
    assert servers.PASSWORD not in f"{caught.value} {caught.value.context}"
    return caught.value


def test_a_wrong_password_is_a_refusal_that_does_not_quote_it(tmp_path: Path) -> None:
    error = refusal(tmp_path, password="planted-wrong-password")
    assert isinstance(error, SinkPermissionError)
    assert "planted" not in str(error)


def test_nobody_listening_is_unavailable(tmp_path: Path) -> None:
    assert isinstance(refusal(tmp_path, port=1), SinkUnavailableError)


def test_unknown_hosts_are_refused_and_known_ones_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with servers.sftp_server() as server:
        with pytest.raises(SinkError) as caught:
            FsspecSink(f"sftp://{tmp_path}/store", storage_options=server.options)
        assert caught.value.kind == "unknown_host_key"
        (tmp_path / ".ssh").mkdir()
        (tmp_path / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{server.port} {server.host_key}\n")
        with FsspecSink(f"sftp://{tmp_path}/store", storage_options=server.options) as sink:
            assert list(sink.list()) == []


@pytest.mark.skipif(servers.OPENSSH is None, reason="OpenSSH's sftp-server is not installed")
def test_a_server_that_only_reads_refuses_to_write_and_delete(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    with (
        servers.sftp_server(program=[str(servers.OPENSSH), "-e", "-R"]) as server,
        open_sink(server, tmp_path) as sink,
    ):
        assert b"".join(sink.read("a")) == b"x"
        for act in (lambda: sink.put("b", [b"x"]), lambda: sink.put("c/b", [b"x"]), lambda: sink.delete("a")):
            with pytest.raises(SinkPermissionError):
                act()
        assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_server_without_hard_links_promises_less_and_renames(tmp_path: Path) -> None:
    with (
        servers.sftp_server(factory=servers.WithoutHardLinks) as server,
        open_sink(server, tmp_path) as sink,
    ):
        assert not sink.capabilities.create_only

        def overtaken() -> Iterator[bytes]:
            yield b"slow"
            sink.put("a", [b"fast"])

        with pytest.raises(BlobExistsError):
            sink.put("a", overtaken())
        assert b"".join(sink.read("a")) == b"fast"
        assert list(sink.leftovers()) == []
        sink.put("b/c", [b"x"])
        assert [info.key for info in sink.list()] == ["a", "b/c"]


def test_answers_that_are_too_short_are_asked_for_again(tmp_path: Path) -> None:
    data = bytes(range(251)) * 8001
    (tmp_path / "a").write_bytes(data)
    with servers.sftp_server(factory=servers.ShortAnswers) as server, open_sink(server, tmp_path) as sink:
        assert b"".join(sink.read("a", start=5)) == data[5:]


def test_a_disk_that_is_full_is_said_to_be_and_nothing_is_left(tmp_path: Path) -> None:
    """One refused request among many that were on their way together must not be missed."""
    with servers.sftp_server(factory=servers.FullDisk) as server, open_sink(server, tmp_path) as sink:
        with pytest.raises(SinkFullError, match="no space left"):
            sink.put("a", [bytes(3 << 20)])
        assert list(sink.list()) == []
        assert list(sink.leftovers()) == []
        assert sink.put("b", [bytes(1 << 20)]).size_bytes == 1 << 20


def test_sinks_of_one_connection_see_each_other(connected: SinkAt, tmp_path: Path) -> None:
    connected(tmp_path / "a").put("b/c", [b"x"])
    assert [info.key for info in connected(tmp_path).list()] == ["a/b/c"]


def test_an_fsspec_that_trusts_every_server_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("fsspec.implementations.sftp.HOST_KEY_POLICIES")
    with pytest.raises(ConfigurationError) as caught:
        FsspecSink("sftp://user@127.0.0.1:9/backups")
    assert caught.value.kind == "fsspec_too_old"
