"""The network as its owner uses it, and the certified interface over a real canister."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cbor2
import httpx
import pytest

from knowtation_backup.sandbox import (
    AnswerLater,
    ManagementOptions,
    Rejected,
    ResetAfterExecution,
    ResetBeforeExecution,
    SandboxNetwork,
    SandboxProcess,
    StaleCertificate,
)
from knowtation_backup.sandbox.principal import to_text

pytestmark = pytest.mark.sandbox

NOTHING = b"DIDL\x00\x00"
OWNER = hashlib.sha224(b"owner").digest() + b"\x02"


def nat64(value: int) -> bytes:
    return b"DIDL\x00\x01\x78" + value.to_bytes(8, "little")


def test_updates_queries_and_rejects(network: SandboxNetwork, counter: bytes) -> None:
    assert network.update(counter, "inc", NOTHING) == nat64(1)
    assert network.query(counter, "get", NOTHING) == nat64(1)
    with pytest.raises(Rejected) as trapped:
        network.update(counter, "boom", NOTHING)
    assert trapped.value.error_code == "IC0503"
    assert "on purpose" in trapped.value.message
    with pytest.raises(Rejected) as refused:
        network.update(counter, "refuse", NOTHING)
    assert (refused.value.error_code, int(refused.value.code)) == ("IC0406", 4)
    with pytest.raises(Rejected) as missing:
        network.query(counter, "nothing", NOTHING)
    assert missing.value.error_code == "IC0536"
    with pytest.raises(Rejected) as nobody:
        network.update(bytes.fromhex("00000000000000990101"), "inc", NOTHING)
    assert nobody.value.error_code == "IC0301"
    assert network.query(counter, "get", NOTHING) == nat64(1)


def test_controllers_and_empty_canisters(network: SandboxNetwork, counter_wasm: bytes) -> None:
    empty = network.create_canister()
    assert network.canisters[empty].code is None
    assert network.canisters[empty].settings.controllers == [network.operator]
    owned = network.create_canister(counter_wasm, controllers=[OWNER], cycles=5_000_000_000_000)
    assert network.canisters[owned].settings.controllers == [OWNER]
    assert 4_000_000_000_000 < network.canisters[owned].cycles <= 5_000_000_000_000
    with pytest.raises(Rejected) as invalid:
        network.create_canister(b"\x00asm junk")
    assert invalid.value.error_code == "IC0505"


def test_timers_run_in_rounds(network: SandboxNetwork, counter: bytes) -> None:
    network.update(counter, "later", NOTHING)
    assert network.query(counter, "get", NOTHING) == nat64(0)
    network.clock.advance(2)
    deadline = time.monotonic() + 5
    while network.query(counter, "get", NOTHING) != nat64(1000):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_rounds_by_hand(counter_wasm: bytes) -> None:
    with SandboxNetwork(tick_seconds=None) as network:
        canister = network.create_canister(counter_wasm)
        network.update(canister, "later", NOTHING)
        network.clock.advance(2)
        time.sleep(0.2)
        assert network.query(canister, "get", NOTHING) == nat64(0)
        network.tick()
        assert network.query(canister, "get", NOTHING) == nat64(1000)


def test_state_survives_close_and_reopen(tmp_path: Path, counter_wasm: bytes) -> None:
    with SandboxNetwork(directory=tmp_path / "network") as network:
        canister = network.create_canister(counter_wasm)
        network.update(canister, "inc", NOTHING)
        root_key = network.root_key
    with SandboxNetwork(directory=tmp_path / "network") as network:
        assert network.root_key == root_key
        assert network.query(canister, "get", NOTHING) == nat64(1)
        assert network.update(canister, "inc", NOTHING) == nat64(2)
        network.save()
        assert network.create_canister() != canister
    with SandboxNetwork(directory=tmp_path / "network") as network:
        assert network.query(canister, "get", NOTHING) == nat64(2)
        assert len(network.canisters) == 2


def test_compiled_code_is_kept_with_the_state_or_where_asked(tmp_path: Path, counter_wasm: bytes) -> None:
    own, shared = tmp_path / "network", tmp_path / "cache"
    for cache, place in ((None, own / "compiled"), (shared, shared)):
        files = []
        for _ in range(2):
            with SandboxNetwork(directory=own, cache_directory=cache) as network:
                canister = network.create_canister(counter_wasm)
                assert network.query(canister, "get", NOTHING) == nat64(0)
            files.append([(path.name, path.stat().st_mtime_ns) for path in place.iterdir()])
        assert files[0] == files[1]  # written once
        assert len(files[0]) == 1
    with SandboxNetwork(cache_directory=shared) as network:
        network.create_canister(counter_wasm)
    assert [path.name for path in shared.iterdir()] == [name for name, _ in files[0]]


def test_keys_follow_the_seed() -> None:
    with SandboxNetwork(key_seed=b"other") as other, SandboxNetwork(delegation=False) as direct:
        assert other.root_key != direct.root_key
        assert direct.subnet_id == hashlib.sha224(direct.root_key).digest() + b"\x02"
        assert other.subnet_id != hashlib.sha224(other.root_key).digest() + b"\x02"


def test_management_options_reach_the_management_canister() -> None:
    with SandboxNetwork(management=ManagementOptions(default_cycles=7_000_000_000_000)) as network:
        reply = network.update(b"", "provisional_create_canister_with_cycles", b"DIDL\x01\x6c\x00\x01\x00", OWNER)
        assert network.canisters[reply[-10:]].cycles == 7_000_000_000_000


def test_certified_data_in_queries(network: SandboxNetwork, counter: bytes) -> None:
    network.update(counter, "certify", b"h" * 32)
    certificate = cbor2.loads(network.query(counter, "certificate", NOTHING)[3:])
    assert cbor2.dumps([3, b"h" * 32]) in cbor2.dumps(certificate["tree"])
    assert "delegation" in certificate


# Over HTTP


def envelope(canister: bytes, method: str, **extra: object) -> bytes:
    content = {
        "request_type": "call",
        "sender": b"\x04",
        "ingress_expiry": time.time_ns() + 60 * 10**9,
        "canister_id": canister,
        "method_name": method,
        "arg": NOTHING,
        "nonce": os.urandom(16),
        **extra,
    }
    return b"\xd9\xd9\xf7" + cbor2.dumps({"content": content})


def post(client: httpx.Client, canister: bytes, body: bytes) -> httpx.Response:
    headers = {"content-type": "application/cbor"}
    return client.post(f"/api/v4/canister/{to_text(canister)}/call", content=body, headers=headers)


def test_an_envelope_sent_again_is_executed_once(network: SandboxNetwork, counter: bytes) -> None:
    with network.serve() as server, httpx.Client(base_url=server.url) as client:
        body = envelope(counter, "inc")
        for _ in range(3):
            assert cbor2.loads(post(client, counter, body).content[3:])["status"] == "replied"
        assert network.query(counter, "get", NOTHING) == nat64(1)
        stale = network.faults.add(StaleCertificate(3600), limit=1)
        assert post(client, counter, envelope(counter, "inc")).status_code == 200
        assert stale.applied == 1
        network.faults.add(AnswerLater(30), endpoint="call", canister_method="inc")
        later = envelope(counter, "inc")
        assert post(client, counter, later).status_code == 202
        assert network.query(counter, "get", NOTHING) == nat64(3)
        network.clock.advance(31)
        network.faults.clear()
        assert post(client, counter, later).status_code == 200


def test_resets_before_and_after_execution(network: SandboxNetwork, counter: bytes) -> None:
    network.faults.add(ResetBeforeExecution(), endpoint="call", nth=1)
    network.faults.add(ResetAfterExecution(), endpoint="call", nth=2)
    with network.serve() as server, httpx.Client(base_url=server.url) as client:
        body = envelope(counter, "inc")
        for executed in (0, 1):
            with pytest.raises(httpx.ReadError):
                post(client, counter, body)
            assert network.query(counter, "get", NOTHING) == nat64(executed)
        assert post(client, counter, body).status_code == 200
        assert network.query(counter, "get", NOTHING) == nat64(1)


def test_the_history_drops_its_oldest_replies(
    network: SandboxNetwork, counter: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("knowtation_backup.sandbox.replica.replica.MAX_HISTORY_REPLY_BYTES", 2_500_000)
    blob = b"DIDL\x01\x6d\x7b\x01\x00\x80\x80\x40" + bytes(1 << 20)
    with network.serve() as server, httpx.Client(base_url=server.url) as client:
        envelopes = [envelope(counter, "echo", arg=blob) for _ in range(3)]
        for body in envelopes:
            assert len(post(client, counter, body).content) > 1 << 20
        sizes = [len(post(client, counter, body).content) for body in envelopes]
        assert sizes[0] < 2000
        assert min(sizes[1:]) > 1 << 20
        again = cbor2.loads(post(client, counter, envelopes[0]).content[3:])
        assert cbor2.dumps([3, b"done"]) in again["certificate"]
    assert network.replica._reply_bytes == 2 * len(blob)
    network.clock.advance(1000)
    network.tick()
    assert (network.replica._reply_bytes, len(network.replica._replies), len(network.replica._history)) == (0, 0, 0)


def test_stopped_canisters_refuse_without_certificate(network: SandboxNetwork, counter: bytes) -> None:
    about = b"DIDL\x01\x6c\x01\xb3\xc4\xb1\xf2\x04\x68\x01\x00\x01\x0a" + counter
    network.update(b"", "stop_canister", about, network.operator)
    with httpx.Client(base_url="http://localhost", transport=network.transport()) as client:
        answer = cbor2.loads(post(client, counter, envelope(counter, "inc")).content[3:])
        assert (answer["status"], answer["error_code"]) == ("non_replicated_rejection", "IC0508")
        page = client.get(f"http://{to_text(counter)}.raw.localhost/")
        assert (page.status_code, page.headers["x-ic-error-cause"]) == (503, "canister_error")


# In a process of its own


def test_a_network_in_another_process(tmp_path: Path, counter_wasm: bytes) -> None:
    with SandboxProcess(directory=tmp_path / "network") as process:
        canister = process.create_canister(counter_wasm)
        assert process.update(canister, "inc", NOTHING) == nat64(1)
        assert process.query(canister, "get", NOTHING) == nat64(1)
        assert httpx.get(process.gateway_url(canister)).text == "counter"
        assert httpx.get(process.url + "/api/v2/status").status_code == 200
        assert process.call("requests.counts") == {"gateway": 1, "status": 1}
        process.call("faults.add", AnswerLater(1), endpoint="call")
        assert len(process.call("faults.rules")) == 1
        process.call("clock.advance", 10.0)
        with pytest.raises(Rejected) as refused:
            process.update(canister, "refuse", NOTHING)
        assert refused.value.error_code == "IC0406"
        with pytest.raises(AttributeError):
            process.call("nonsense")
        with pytest.raises(Exception, match="cannot leave the sandbox process"):
            process.call("replica")
        pid = process.pid
        root_key = process.root_key
    assert not Path(f"/proc/{pid}").exists()
    with SandboxNetwork(directory=tmp_path / "network") as network:
        assert network.root_key == root_key
        assert network.query(canister, "get", NOTHING) == nat64(1)


def test_the_child_ends_with_a_parent_that_is_killed() -> None:
    program = (
        "import os, signal\n"
        "from knowtation_backup.sandbox import SandboxProcess\n"
        "process = SandboxProcess()\n"
        "print(process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - our own
    assert done.returncode == -signal.SIGKILL, done.stderr
    child = Path(f"/proc/{int(done.stdout)}/stat")
    deadline = time.monotonic() + 10
    while child.exists() and child.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_fails_in_the_child_is_raised_here() -> None:
    with pytest.raises(TypeError, match="unknown_option"):
        SandboxProcess(unknown_option=1)
