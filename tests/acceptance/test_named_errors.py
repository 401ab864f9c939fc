"""
Whatever goes wrong has a name and a hint, and harms nothing that is stored.

One test per case an operator meets; real canister, real sockets, real TLS, real file systems.
"""

from __future__ import annotations

import http.server
import itertools
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from stage import GATEWAY_SECRET, KEY_HEX, OPERATOR_KEY, Stage, Vault, connect

from knowtation_backup import BackupError, EncryptionKey, FsspecSink, Ktb1Codec, Pipeline
from knowtation_backup._engine.retrying import RetryPolicy
from knowtation_backup.errors import (
    ConfigurationError,
    ExportError,
    NoMatchingKeyError,
    RejectedError,
    SinkFullError,
    SinkPermissionError,
    SourceUnavailableError,
    TamperedError,
    TruncatedError,
)
from knowtation_backup.sandbox import Answer, SandboxNetwork
from knowtation_backup.sandbox.hub import SandboxHub


def _back_up(vault: Vault, url: str, **client: Any) -> None:
    with connect(url, **client) as hub:
        vault.pipeline(hub).backup()


def _assert_named(error: BackupError, kind: str, *words: str) -> None:
    assert error.kind == kind
    assert error.hint
    for word in words:
        assert word in str(error)


# --- the hub says no ---------------------------------------------------------------------------------------------


def test_wrong_operator_key(stage: Stage, vault: Vault) -> None:
    with pytest.raises(RejectedError) as caught:
        _back_up(vault, stage.url, operator_key="not-the-operator-key-0123456789abcdef")
    _assert_named(caught.value, "operator_key", "401")
    vault.assert_unharmed()


def test_missing_gateway_secret(stage: Stage, vault: Vault) -> None:
    with pytest.raises(RejectedError) as caught:
        _back_up(vault, stage.url, gateway_secret=None)
    _assert_named(caught.value, "gateway_auth", "403", "CANISTER_AUTH_SECRET")
    vault.assert_unharmed()


def test_operator_secret_never_configured(vault: Vault) -> None:
    with SandboxNetwork() as network, network.serve() as server:
        hub = SandboxHub.deploy(network)
        with pytest.raises(RejectedError) as caught:
            _back_up(vault, hub.base_url(server))
        _assert_named(caught.value, "not_configured", "503", "admin_set_operator_export_secret")
        asked = [seen for seen in network.requests.entries if "/operator/export" in seen.path]
        assert len(asked) == 1, "not transient: asked once"
    vault.assert_unharmed()


# --- the hub cannot be reached or cannot be trusted ----------------------------------------------------------------


def test_unreachable_host(vault: Vault) -> None:
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        port = placeholder.getsockname()[1]
    with pytest.raises(SourceUnavailableError) as caught:
        _back_up(vault, f"http://127.0.0.1:{port}")
    _assert_named(caught.value, "unreachable", str(port))
    vault.assert_unharmed()


def test_bad_tls_certificate(stage: Stage, vault: Vault) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with stage.network.serve(ssl_context=context) as server, pytest.raises(BackupError) as caught:
        _back_up(vault, stage.hub.base_url(server))
    _assert_named(caught.value, "tls", "certificate")
    vault.assert_unharmed()


def test_reply_that_is_not_json(stage: Stage, vault: Vault) -> None:
    stage.faults.add(
        Answer(status=200, text="<html>Welcome to our proxy</html>"), path_contains="/api/v1/operator/export"
    )
    try:
        with pytest.raises(ExportError) as caught:
            _back_up(vault, stage.url)
    finally:
        stage.faults.clear()
    _assert_named(caught.value, "reply_not_json", "a web page answers instead of the hub")
    assert "Welcome" not in str(caught.value), "a reply of status 200 may be tenant content"
    vault.assert_unharmed()


# --- a hub that means harm -----------------------------------------------------------------------------------------

Handler = Callable[[http.server.BaseHTTPRequestHandler], None]


@pytest.fixture
def hostile() -> Iterator[Callable[[Handler], str]]:
    """Start loopback servers that answer every GET as a function says."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def start(answer: Handler) -> str:
        class _Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                try:
                    answer(self)
                except ConnectionError:
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def _send(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def _page(users: list[str], cursor: str, *, done: bool = False) -> bytes:
    return json.dumps({"user_ids": users, "next_cursor": cursor, "done": done}).encode()


def test_endless_pagination_with_the_same_cursor(vault: Vault, hostile: Callable[[Handler], str]) -> None:
    with pytest.raises(ExportError) as caught:
        _back_up(vault, hostile(lambda handler: _send(handler, _page(["a"], "1"))))
    _assert_named(caught.value, "index_loop")
    vault.assert_unharmed()


def test_endless_pagination_with_ever_new_users(vault: Vault, hostile: Callable[[Handler], str]) -> None:
    numbers = itertools.count(1)

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        number = next(numbers)
        _send(handler, _page([f"user-{number}"], str(number)))

    with pytest.raises(ExportError) as caught:
        _back_up(vault, hostile(answer))
    assert caught.value.hint
    assert next(numbers) <= 60, "the walk is bounded by HubLimits.index_pages"
    vault.assert_unharmed()


def test_huge_reply(vault: Vault, hostile: Callable[[Handler], str]) -> None:
    sent = []

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        for _ in range(4096):
            handler.wfile.write(piece)
            sent.append(len(piece))

    with pytest.raises(ExportError) as caught:
        _back_up(vault, hostile(answer))
    _assert_named(caught.value, "reply_too_large")
    assert sum(sent) < 64_000_000, "reading stopped long before the 268 MB offered"
    vault.assert_unharmed()


def test_reply_nested_too_deeply(vault: Vault, hostile: Callable[[Handler], str]) -> None:
    with pytest.raises(ExportError) as caught:
        _back_up(vault, hostile(lambda handler: _send(handler, b"[" * 500_000)))
    assert caught.value.hint
    vault.assert_unharmed()


def test_reply_that_drips(vault: Vault, hostile: Callable[[Handler], str]) -> None:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b" ")
            time.sleep(0.1)

    with pytest.raises(SourceUnavailableError) as caught:
        _back_up(vault, hostile(answer), retry=RetryPolicy(attempts=1))
    _assert_named(caught.value, "timeout")
    vault.assert_unharmed()


# --- the store -----------------------------------------------------------------------------------------------------

_MOUNTED = """
import sys
sys.path[:0] = {path!r}
from test_named_errors import in_mounted_directory
in_mounted_directory({url!r}, {directory!r}, {case!r})
"""


def _unprivileged_mount(url: str, directory: Path, case: str, options: str) -> subprocess.CompletedProcess[str]:
    """Run a backup into a small or read-only tmpfs in a mount namespace of its own, which ends with it."""
    code = _MOUNTED.format(path=[str(Path(__file__).parent), *sys.path], url=url, directory=str(directory), case=case)
    script = (
        f'mount -t tmpfs -o size=64k,mode=0700 none "{directory}" && cp -r "{directory}.orig/." "{directory}/" && '
        f'{options} exec "$0" -c "$1"'
    )
    directory.rename(f"{directory}.orig")
    directory.mkdir()
    arguments = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, sys.executable, code]
    return subprocess.run(  # noqa: S603 - our own script
        arguments, capture_output=True, text=True, timeout=60, check=False
    )


def in_mounted_directory(url: str, directory: str, case: str) -> None:
    """Run in the child: fail as expected, then prove that the archive in the mounted directory is unharmed."""
    sink = FsspecSink(directory)
    archive_id = Pipeline(sink=sink, codec=Ktb1Codec(EncryptionKey.from_hex(KEY_HEX))).latest().archive_id
    vault = Vault(directory=Path(directory), archive_id=archive_id)
    before = sorted(path.name for path in Path(directory).rglob("*"))
    expected = {"full": SinkFullError, "readonly": SinkPermissionError}[case]
    actions: dict[str, Callable[[], object]] = {
        "full": lambda: sink.put("filler.bin", itertools.repeat(b"x" * 4096, 64)),
        "readonly": lambda: _back_up(vault, url),
    }
    fails = actions[case]
    with pytest.raises(expected) as caught:
        fails()
    assert caught.value.hint
    vault.assert_unharmed()
    assert sorted(path.name for path in Path(directory).rglob("*")) == before
    print(caught.value.kind)  # noqa: T201 - read by the parent


def test_disk_full(stage: Stage, vault: Vault) -> None:
    result = _unprivileged_mount(stage.url, vault.directory, "full", "")
    assert result.stdout.strip() == "no_space", result.stderr


def test_read_only_directory(stage: Stage, vault: Vault) -> None:
    remount = f'mount -o remount,ro "{vault.directory}" &&'
    result = _unprivileged_mount(stage.url, vault.directory, "readonly", remount)
    assert result.stdout.strip() == "sink_permission", result.stderr


# --- the archive ---------------------------------------------------------------------------------------------------


def test_wrong_key_is_recognised_from_the_manifest(vault: Vault) -> None:
    pipeline = Pipeline(sink=FsspecSink(vault.directory), codec=Ktb1Codec(EncryptionKey.generate()))
    with pytest.raises(NoMatchingKeyError) as caught:
        b"".join(pipeline.read())
    assert caught.value.hint
    vault.assert_unharmed()


def test_no_key_at_all(vault: Vault) -> None:
    with pytest.raises(BackupError) as caught:
        b"".join(Pipeline(sink=FsspecSink(vault.directory)).read())
    assert caught.value.hint


def test_key_of_the_wrong_length_is_refused_before_anything_is_read() -> None:
    with pytest.raises(ConfigurationError) as caught:
        EncryptionKey.from_hex("5eed" * 15)
    assert "60" in str(caught.value)
    assert "5eed5eed" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 3, 31, 1000])
def test_cut_file(vault: Vault, keep: int) -> None:
    artifact = vault.directory / vault.archive_id
    os.truncate(artifact, keep)
    pipeline = Pipeline(sink=FsspecSink(vault.directory), codec=Ktb1Codec(EncryptionKey.from_hex(KEY_HEX)))
    verdict = pipeline.verify(vault.archive_id)
    assert not verdict.ok
    with pytest.raises((TruncatedError, TamperedError)):
        b"".join(pipeline.read(vault.archive_id))


@pytest.mark.parametrize("where", [0, 4, 16, 1000, -16, -1])
def test_flipped_bit(vault: Vault, where: int) -> None:
    artifact = vault.directory / vault.archive_id
    data = bytearray(artifact.read_bytes())
    data[where] ^= 1
    artifact.write_bytes(data)
    pipeline = Pipeline(sink=FsspecSink(vault.directory), codec=Ktb1Codec(EncryptionKey.from_hex(KEY_HEX)))
    verdict = pipeline.verify(vault.archive_id)
    assert not verdict.ok
    assert vault.archive_id in str(verdict)
    with pytest.raises(BackupError):
        b"".join(pipeline.read(vault.archive_id))


def test_secrets_of_this_module_are_long_enough_to_be_found() -> None:
    """The planted values must not be prefixes of harmless words, or the secrets tests prove nothing."""
    assert min(map(len, (OPERATOR_KEY, GATEWAY_SECRET, KEY_HEX))) > 32
