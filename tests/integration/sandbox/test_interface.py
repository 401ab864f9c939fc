"""The HTTP interface over the real management canister: addresses, ways to fail, and who may create what."""

from typing import Any

import pytest

from knowtation_backup.sandbox import SandboxNetwork, candid
from knowtation_backup.sandbox.management.types import METHODS
from knowtation_backup.sandbox.principal import to_text

pytestmark = pytest.mark.sandbox

ANONYMOUS = b"\x04"
ELSEWHERE = bytes.fromhex("00000000000000990101")


def about(canister_id: bytes, method: str = "canister_status") -> bytes:
    return candid.encode([METHODS[method].argument], [{"canister_id": canister_id}])  # type: ignore[list-item] # it has one


@pytest.mark.parametrize("kind", ["call", "query"])
def test_management_calls_must_name_their_canister_in_the_url(
    network: SandboxNetwork, counter_wasm: bytes, ic: Any, kind: str
) -> None:
    canister_id = network.create_canister(counter_wasm, controllers=[ANONYMOUS])
    other = network.create_canister(counter_wasm, controllers=[ANONYMOUS])
    for url_id in (ELSEWHERE, other):
        reply = ic.post(kind, b"", "canister_status", about(canister_id), url_id=url_id)
        assert reply.status_code == 400
        assert reply.text == (
            f"Specified CanisterId {to_text(canister_id)} does not match effective canister id in URL {to_text(url_id)}"
        )
    for url_id in (canister_id, b""):
        assert ic.post(kind, b"", "canister_status", about(canister_id), url_id=url_id).status_code == 200


def test_canisters_are_created_under_any_url(network: SandboxNetwork, ic: Any) -> None:
    method = "provisional_create_canister_with_cycles"
    for url_id in (ELSEWHERE, b""):
        assert ic.post("call", b"", method, candid.encode([], []), url_id=url_id).status_code == 200, url_id
    assert len(network.canisters) == 0
