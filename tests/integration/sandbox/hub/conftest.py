"""A real hub on a real sandbox network, shared by the tests of this folder; every test works as a tenant of its own."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import httpx
import pytest

from knowtation_backup.sandbox.candid import decode, encode
from knowtation_backup.sandbox.hub import HTTP_REQUEST, HTTP_RESPONSE, SandboxHub
from knowtation_backup.sandbox.network import SandboxNetwork

_TENANTS = itertools.count()
_ESCAPES = str.maketrans({'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})


@attrs.frozen
class Api:
    """The hub as one tenant sees it."""

    client: httpx.Client
    hub: SandboxHub
    user: str

    def request(
        self,
        method: str,
        path: str,
        body: str | bytes = "",
        *,
        vault: str | None = None,
        headers: Mapping[str, str | None] | None = None,
    ) -> httpx.Response:
        """Send one request; a header of value `None` is left out."""
        merged = {"X-User-Id": self.user, "X-Vault-Id": vault, **(headers or {})}
        sent = {name: value for name, value in merged.items() if value is not None}
        return self.client.request(method, path, content=body.encode() if isinstance(body, str) else body, headers=sent)

    def get(
        self, path: str, *, vault: str | None = None, headers: Mapping[str, str | None] | None = None
    ) -> httpx.Response:
        return self.request("GET", path, vault=vault, headers=headers)

    def post(
        self,
        path: str,
        body: str | bytes | dict[str, Any] = "{}",
        *,
        vault: str | None = None,
        headers: Mapping[str, str | None] | None = None,
    ) -> httpx.Response:
        """Send a body, a dict as JSON in the form the hub understands."""
        text = compact(body) if isinstance(body, dict) else body
        return self.request("POST", path, text, vault=vault, headers=headers)

    def delete(self, path: str, *, vault: str | None = None) -> httpx.Response:
        return self.request("DELETE", path, vault=vault)

    def write(self, path: str, body: str = "", *, vault: str | None = None) -> None:
        """Write a note, which must succeed."""
        assert self.post("/api/v1/notes", {"path": path, "body": body}, vault=vault).status_code == 200

    def notes(self, vault: str | None = None) -> dict[str, tuple[str, str]]:
        """Return the notes of a vault: path to front matter and body."""
        reply = self.get("/api/v1/export", vault=vault)
        assert reply.status_code == 200
        return {note["path"]: (note["frontmatter"], note["body"]) for note in reply.json()["notes"]}

    def vaults(self) -> list[str]:
        return [vault["id"] for vault in self.get("/api/v1/vaults").json()["vaults"]]

    def propose(self, path: str = "inbox/a.md", *, vault: str | None = None, **fields: str) -> str:
        """Create a proposal and return its id."""
        reply = self.post("/api/v1/proposals", {"path": path, "body": "proposed", **fields}, vault=vault)
        assert reply.status_code == 200
        return str(reply.json()["proposal_id"])

    def step(self, proposal_id: str, step: str, body: dict[str, Any], *, vault: str | None = None) -> httpx.Response:
        """Take a step in a proposal's life."""
        return self.post(f"/api/v1/proposals/{proposal_id}/{step}", body, vault=vault)

    def proposal(self, proposal_id: str, *, vault: str | None = None) -> dict[str, Any]:
        reply = self.get(f"/api/v1/proposals/{proposal_id}", vault=vault)
        assert reply.status_code == 200
        found: dict[str, Any] = reply.json()
        return found

    def index(self, query: str = "", key: str | None = "operator secret") -> httpx.Response:
        """Read a page of the operator index."""
        return self.get(f"/api/v1/operator/export{query}", headers={"X-Operator-Export-Key": key})

    def candid(self, method: str, url: str, headers: dict[str, str], *, update: bool = False) -> dict[str, Any]:
        """Call the canister's HTTP method directly, past the gateway."""
        fields = [{0: name, 1: value} for name, value in headers.items()]
        arg = encode([HTTP_REQUEST], [{"method": method, "url": url, "headers": fields, "body": b""}])
        if update:
            reply = self.hub.network.update(self.hub.hub_id, "http_request_update", arg)
        else:
            reply = self.hub.network.query(self.hub.hub_id, "http_request", arg)
        (response,) = decode(reply, [HTTP_RESPONSE])
        return dict(response)


def compact(value: Any) -> str:
    """Return JSON as clients of the hub must send it: no space after colons, only the five escapes it understands."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{compact(key)}:{compact(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(compact, value)) + "]"
    if isinstance(value, str):
        return f'"{value.translate(_ESCAPES)}"'
    return json.dumps(value)


def error_code(reply: httpx.Response) -> tuple[int, str]:
    """Return status and code of an error, whose body must have the shape of the contract."""
    body = reply.json()
    assert set(body) == {"error", "code"}
    assert isinstance(body["error"], str)
    return reply.status_code, body["code"]


@pytest.fixture(scope="session")
def network() -> Iterator[SandboxNetwork]:
    with SandboxNetwork(tick_seconds=None) as running:
        yield running


@pytest.fixture(scope="session")
def shared_hub(network: SandboxNetwork) -> SandboxHub:
    return SandboxHub.deploy(network, operator_key="operator secret")


@pytest.fixture
def hub(shared_hub: SandboxHub) -> Iterator[SandboxHub]:
    """The shared hub; secrets a test changes are put back."""
    yield shared_hub
    shared_hub.set_operator_key("operator secret")
    shared_hub.set_gateway_secret("")
    shared_hub.set_cors_origin("")


@pytest.fixture
def empty_hub(network: SandboxNetwork) -> SandboxHub:
    return SandboxHub.deploy(network, operator_key="operator secret")


def api_of(hub: SandboxHub, user: str = "google:1") -> Iterator[Api]:
    with httpx.Client(transport=hub.network.transport(), base_url=hub.base_url()) as client:
        yield Api(client, hub, user)


@pytest.fixture
def api(hub: SandboxHub) -> Iterator[Api]:
    """The shared hub as a tenant nobody has used before."""
    yield from api_of(hub, f"google:{next(_TENANTS)}")


@pytest.fixture
def empty_api(empty_hub: SandboxHub) -> Iterator[Api]:
    yield from api_of(empty_hub)
