"""The attestation ledger (contracts 1.11)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from knowtation_backup.sandbox.candid import NAT, TEXT, Opt, Record, Vec, decode, encode
from knowtation_backup.sandbox.hub import SandboxHub
from knowtation_backup.sandbox.messages import Rejected

KEYS = ["id", "action", "path", "timestamp", "content_hash", "sig", "seq", "stored_at"]
RECORD = Record({key: NAT if key == "seq" else TEXT for key in KEYS})


def entry(name: str) -> dict[str, str]:
    fields = {"action": "write", "path": "a/é.md", "timestamp": "2026-04-08T15:30:22.123Z"}
    return fields | {"id": name, "content_hash": "00ff", "sig": "s\n"}


def listing(hub: SandboxHub, offset: int, limit: int) -> tuple[list[int], int]:
    reply = hub.network.query(hub.attestation_id, "listAttestations", encode([NAT, NAT], [offset, limit]))
    (page,) = decode(reply, [Record({"records": Vec(RECORD), "total": NAT})])
    return [record["seq"] for record in page["records"]], page["total"]


@pytest.fixture
def client(empty_hub: SandboxHub) -> Iterator[httpx.Client]:
    with httpx.Client(transport=empty_hub.network.transport(), base_url=empty_hub.attestation_url()) as client:
        yield client


def test_health(client: httpx.Client) -> None:
    reply = client.get("/health")
    assert (reply.status_code, reply.text) == (200, '{"ok":true,"canister":"attestation"}')
    assert reply.headers["content-type"] == "application/json"


def test_a_stored_record_is_served(empty_hub: SandboxHub, client: httpx.Client) -> None:
    record = empty_hub.store_attestation(**entry("a/1"))
    served = client.get("/attest/a%2F1").json()
    assert list(served) == KEYS
    assert served == record == entry("a/1") | {"seq": 1, "stored_at": record["stored_at"]}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["stored_at"])


@pytest.mark.parametrize("path", ["/attest/none", "/attest", "/", "/nowhere"])
def test_unknown_things_are_not_found(client: httpx.Client, path: str) -> None:
    reply = client.get(path)
    assert (reply.status_code, reply.json()["code"]) == (404, "NOT_FOUND")


def test_stats(empty_hub: SandboxHub, client: httpx.Client) -> None:
    assert client.get("/stats").json() == {"total": 0, "next_seq": 1}
    for name in "abc":
        empty_hub.store_attestation(**entry(name))
    assert client.get("/stats").json() == {"total": 3, "next_seq": 4}
    (stats,) = decode(
        empty_hub.network.query(empty_hub.attestation_id, "getStats", encode([], [])),
        [Record({"total": NAT, "next_seq": NAT})],
    )
    assert stats == {"total": 3, "next_seq": 4}


def test_pages_of_the_ledger(empty_hub: SandboxHub) -> None:
    for number in range(105):
        empty_hub.store_attestation(**entry(f"id-{number}"))
    for offset, limit, expected in [
        (0, 0, range(1, 21)),
        (0, 1, range(1, 2)),
        (0, 100, range(1, 101)),
        (0, 101, range(1, 101)),
        (100, 100, range(101, 106)),
        (103, 0, range(104, 106)),
        (105, 10, range(0)),
        (10**20, 10, range(0)),
    ]:
        assert listing(empty_hub, offset, limit) == (list(expected), 105)


def test_one_record_by_candid(empty_hub: SandboxHub) -> None:
    record = empty_hub.store_attestation(**entry("a"))

    def lookup(name: str) -> Any:
        reply = empty_hub.network.query(empty_hub.attestation_id, "getAttestation", encode([TEXT], [name]))
        return decode(reply, [Opt(RECORD)])[0]

    assert lookup("a") == record
    assert lookup("b") is None


def test_an_id_is_stored_once(empty_hub: SandboxHub) -> None:
    first = empty_hub.store_attestation(**entry("a"))
    with pytest.raises(Rejected, match="already stored"):
        empty_hub.store_attestation(**entry("a") | {"path": "other"})
    assert listing(empty_hub, 0, 10) == ([first["seq"]], 1)


def test_writing_needs_authority(empty_hub: SandboxHub) -> None:
    writer = b"some writer"
    arg = encode([Record(dict.fromkeys(entry("a"), TEXT))], [entry("a")])
    with pytest.raises(Rejected, match="may not write"):
        empty_hub.network.update(empty_hub.attestation_id, "storeAttestation", arg, writer)
    empty_hub.authorize_attestations(writer)
    empty_hub.network.update(empty_hub.attestation_id, "storeAttestation", arg, writer)
    assert listing(empty_hub, 0, 10) == ([1], 1)


def test_only_controllers_give_authority(empty_hub: SandboxHub) -> None:
    stranger = SandboxHub(
        network=empty_hub.network, hub_id=empty_hub.hub_id, attestation_id=empty_hub.attestation_id, controller=b"x"
    )
    with pytest.raises(Rejected, match="only a controller"):
        stranger.authorize_attestations(b"x")
