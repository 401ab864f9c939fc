"""Server and in-process transport: the same core, the same faults, as a client sees them."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import trustme

from knowtation_backup.errors import ConfigurationError
from knowtation_backup.sandbox import (
    Answer,
    Delay,
    LocalhostTransport,
    ResetAfterExecution,
    ResetBeforeExecution,
    SandboxNetwork,
    Tamper,
    Truncate,
)
from knowtation_backup.sandbox.principal import to_text

pytestmark = pytest.mark.sandbox


@pytest.fixture(params=["server", "in process"])
def web(request: pytest.FixtureRequest, network: SandboxNetwork, counter: bytes) -> Iterator[httpx.Client]:
    """A client whose base URL is the counter's raw gateway address."""
    if request.param == "server":
        with network.serve() as server, httpx.Client(base_url=server.gateway_url(counter)) as client:
            yield client
    else:
        base = f"http://{to_text(counter)}.raw.localhost"
        with httpx.Client(base_url=base, transport=network.transport()) as client:
            yield client


def test_gateway_interface_and_record(web: httpx.Client, network: SandboxNetwork) -> None:
    assert web.get("/any/path?x=1").text == "counter"
    status = web.get("/api/v2/status")
    assert status.headers["content-type"] == "application/cbor"
    assert network.root_key in status.content
    assert web.get("/api/v2/nonsense").status_code == 404
    assert network.requests.counts == {"gateway": 2, "status": 1}
    first = network.requests.entries[0]
    assert (first.method, first.path, first.query) == ("GET", "/any/path", "x=1")
    assert "user-agent" in first.header_names


def test_answers_with_status_and_headers(web: httpx.Client, network: SandboxNetwork) -> None:
    network.faults.add(Answer(status=429, retry_after_seconds=7), path_contains="/busy", limit=1)
    reply = web.get("/busy")
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "7")
    assert web.get("/busy").status_code == 200


def test_resets(web: httpx.Client, network: SandboxNetwork) -> None:
    network.faults.add(ResetBeforeExecution(), path_contains="/before")
    network.faults.add(ResetAfterExecution(), path_contains="/after")
    for path in ("/before", "/after"):
        with pytest.raises(httpx.ReadError):
            web.get(path)
    assert web.get("/").text == "counter"
    assert [entry.faults for entry in network.requests.entries] == [
        ("ResetBeforeExecution",),
        ("ResetAfterExecution",),
        (),
    ]


@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_truncated_bodies(web: httpx.Client, network: SandboxNetwork, keep: float) -> None:
    network.faults.add(Truncate(keep))
    with web.stream("GET", "/") as reply:
        assert reply.headers["content-length"] == "7"
        received = b""
        with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):  # noqa: PT012
            for part in reply.iter_raw():  # what came before the error counts
                received += part
    assert received == b"counter"[: int(7 * keep)]
    network.faults.clear()
    assert web.get("/").text == "counter"


def test_tampered_bodies(web: httpx.Client, network: SandboxNetwork) -> None:
    network.faults.add(Tamper("middle"))
    assert web.get("/").text == "couoter"


def test_latency_holds_nothing(web: httpx.Client, network: SandboxNetwork) -> None:
    web.get("/")
    network.faults.set_latency(0.2)
    network.requests.clear()

    def timed(_: int) -> float:
        started = time.perf_counter()
        assert web.get("/").text == "counter"
        return time.perf_counter() - started

    with ThreadPoolExecutor(32) as pool:
        started = time.perf_counter()
        times = list(pool.map(timed, range(32)))
        whole = time.perf_counter() - started
    assert min(times) >= 0.2
    assert whole < 32 * 0.2 / 4  # would be 6.4 s one after another
    assert network.requests.max_in_flight > 16


def test_read_timeouts_meet_delays(web: httpx.Client, network: SandboxNetwork) -> None:
    network.faults.add(Delay(5), path_contains="/slow")
    started = time.perf_counter()
    with pytest.raises(httpx.ReadTimeout):
        web.get("/slow", timeout=0.1)
    assert time.perf_counter() - started < 2


def test_large_request_bodies(web: httpx.Client, network: SandboxNetwork) -> None:
    assert web.post("/", content=bytes(2_000_000)).text == "counter"
    assert web.post("/", content=bytes(10 * 1024 * 1024 + 1)).status_code == 413
    assert network.requests.entries[0].body_size_bytes == 2_000_000


# The server alone


def test_reset_is_a_real_one(network: SandboxNetwork) -> None:
    network.faults.add(ResetAfterExecution())
    with network.serve() as server, socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            raw.recv(1)


def test_connections_are_kept_alive(network: SandboxNetwork) -> None:
    with network.serve() as server, socket.create_connection(("127.0.0.1", server.port)) as raw:
        for _ in range(3):
            raw.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert raw.recv(65536).startswith(b"HTTP/1.1 200 OK")


def test_hosts_below_localhost(network: SandboxNetwork, counter: bytes) -> None:
    with network.serve() as server, httpx.Client(transport=LocalhostTransport()) as client:
        assert client.get(server.gateway_host_url(counter)).text == "counter"
        refused = client.get(server.gateway_host_url(counter, raw=False))
        assert (refused.status_code, refused.headers["x-ic-error-cause"]) == (503, "backend_response_verification")
        by_query = client.get(server.url, params={"canisterId": to_text(counter)})
        assert by_query.text == "counter"
        assert client.get(server.url + "/health").status_code == 200
        assert client.get(server.url).json()["error_type"] == "canister_id_not_resolved"
        assert client.head(server.gateway_host_url(counter)).text == ""


def test_tls(network: SandboxNetwork, counter: bytes) -> None:
    authority = trustme.CA()
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(serving)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    network.faults.add(ResetAfterExecution(), path_contains="/reset")
    network.faults.add(Truncate(0.5), path_contains="/cut")
    with network.serve(ssl_context=serving) as server:
        assert server.url.startswith("https://127.0.0.1:")
        with httpx.Client(verify=trusting, base_url=server.gateway_url(counter)) as client:
            assert client.get("/").text == "counter"
            with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
                client.get("/reset")
            with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
                client.get("/cut")
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(server.url)


def test_a_chosen_port_and_several_servers(network: SandboxNetwork, counter: bytes) -> None:
    with network.serve() as first:
        port = first.port
    with network.serve(port) as again, network.serve() as other:
        assert again.port == port != other.port
        assert again.gateway_url(counter) == again.gateway_url(counter) != other.gateway_url(counter)
        with pytest.raises(ConfigurationError, match=f"port {port} on 127.0.0.1 cannot be opened"):
            network.serve(port)


def _is_closed(connection: socket.socket) -> bool:
    """Whether the peer closed it; one it had not accepted yet is reset by the kernel."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.fixture
def threads_now() -> Callable[[], set[str]]:
    """Return the names of the sandbox's threads that were not there before; other tests keep networks open."""
    before = set(threading.enumerate())
    return lambda: {thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("sandbox")}


def test_nothing_is_left_behind(counter_wasm: bytes, threads_now: Callable[[], set[str]]) -> None:
    with SandboxNetwork() as network:
        server = network.serve()
        canister = network.create_canister(counter_wasm)
        assert httpx.get(server.gateway_url(canister)).text == "counter"
        assert threads_now() >= {"sandbox-server", "sandbox-rounds"}
        waiting = socket.create_connection(("127.0.0.1", server.port))
    assert threads_now() == set()
    with waiting:
        assert _is_closed(waiting)
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url)
    server.close()
    network.close()
