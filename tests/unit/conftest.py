"""A hub that answers in process, with rules for what goes wrong; correctness is shown on the real hub elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import attrs
import httpx
import pytest

from knowtation_backup import HubClient

OPERATOR_KEY = "operator-key-0123456789-planted-secret"
GATEWAY_SECRET = "gateway-secret-0123456789-planted"

Rule = Callable[[httpx.Request], "httpx.Response | None"]
Vault = dict[str, list[dict[str, Any]]]


def error(status: int, code: str = "", text: str = "said the hub") -> httpx.Response:
    body = json.dumps({"error": text, "code": code}) if code else f"<html>{text}</html>"
    return httpx.Response(status, text=body)


def make_note(path: str, body: str = "text", frontmatter: str = "{}") -> dict[str, str]:
    return {"path": path, "frontmatter": frontmatter, "body": body}


def make_proposal(proposal_id: str, vault_id: str = "default", **more: Any) -> dict[str, Any]:
    return {
        "proposal_id": proposal_id,
        "path": f"{proposal_id}.md",
        "status": "proposed",
        "vault_id": vault_id,
        "suggested_labels": [],
        **more,
    }


@attrs.define(eq=False)
class FakeHub:
    """Speaks the reading half of the hub contract over `httpx.MockTransport`."""

    tenants: dict[str, dict[str, Vault]] = attrs.field(factory=dict)
    hidden: set[str] = attrs.field(factory=set)
    """Tenants the index leaves out."""
    unlisted: set[tuple[str, str]] = attrs.field(factory=set)
    """Vaults the vault list leaves out."""
    rules: list[Rule] = attrs.field(factory=list)
    requests: list[httpx.Request] = attrs.field(factory=list)
    operator_key: str = OPERATOR_KEY
    gateway_secret: str = ""

    def add(self, user_id: str, vault_id: str = "default", *, notes: Any = (), proposals: Any = ()) -> None:
        self.tenants.setdefault(user_id, {})[vault_id] = {"notes": list(notes), "proposals": list(proposals)}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        for rule in self.rules:
            if (response := rule(request)) is not None:
                return response
        return self.answer(request)

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.raw_path.decode().partition("?")[0]
        if path == "/health":
            return httpx.Response(200, json={"ok": True})
        if self.gateway_secret and request.headers.get("x-gateway-auth") != self.gateway_secret:
            return error(403, "GATEWAY_AUTH_REQUIRED")
        if path == "/api/v1/operator/export":
            return self._index(request)
        return self._tenant(request, path, self.tenants.get(request.headers.get("x-user-id", "default"), {}))

    def _tenant(self, request: httpx.Request, path: str, user: dict[str, Vault]) -> httpx.Response:
        vault = user.get(request.headers.get("x-vault-id", "default"), {"notes": [], "proposals": []})
        name, _, last = path.removeprefix("/api/v1/").partition("/")
        if name == "vaults":
            ids = [v for v in user if (request.headers["x-user-id"], v) not in self.unlisted] or ["default"]
            value: Any = {"vaults": [{"id": v, "label": v} for v in ids]}
        elif name == "export":
            value = {"notes": vault["notes"]}
        elif name == "notes":
            value = next((n for n in vault["notes"] if n["path"] == unquote(last, encoding="latin-1")), None)
        elif name == "proposals" and not last:
            keys = ("proposal_id", "path", "status", "vault_id")
            stubs = [{key: item[key] for key in keys if key in item} for item in vault["proposals"]]
            value = {"proposals": stubs, "total": len(stubs)}
        elif name == "proposals":
            value = next((item for item in vault["proposals"] if item.get("proposal_id") == unquote(last)), None)
            if value and "raw" in value:
                return httpx.Response(200, content=value["raw"])
        else:
            value = None
        return error(404, "NOT_FOUND") if value is None else httpx.Response(200, text=json.dumps(value))

    def _index(self, request: httpx.Request) -> httpx.Response:
        if request.headers.get("x-operator-export-key") != self.operator_key:
            return error(401, "UNAUTHORIZED")
        ids = sorted(set(self.tenants) - self.hidden)
        cursor = int(request.url.params.get("cursor") or 0)
        limit = int(request.url.params["limit"])
        following = cursor + limit
        done = following >= len(ids)
        return httpx.Response(
            200,
            json={
                "format_version": 3,
                "kind": "knowtation-operator-user-index",
                "exported_at_ns": "1",
                "user_ids": ids[cursor:following],
                "next_cursor": "" if done else str(following),
                "done": done,
            },
        )

    def client(self, **options: Any) -> HubClient:
        waits = options.pop("waits", [])
        defaults: Mapping[str, Any] = {
            "operator_key": OPERATOR_KEY,
            "transport": httpx.MockTransport(self),
            "sleep": waits.append,
            "random": lambda: 0.5,
        }
        return HubClient("https://hub.example", **{**defaults, **options})


@pytest.fixture
def fake_hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    yield hub
    assert {request.method for request in hub.requests} <= {"GET"}
