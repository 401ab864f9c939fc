"""What holds for every request: routes, headers, secrets, error bodies (contracts 1.1 to 1.3)."""

from __future__ import annotations

import re
from importlib import resources
from typing import TYPE_CHECKING

import pytest
from tests.integration.sandbox.hub.conftest import Api, error_code

from knowtation_backup.sandbox.candid import TEXT, encode
from knowtation_backup.sandbox.messages import Rejected

if TYPE_CHECKING:
    from knowtation_backup.sandbox.hub import SandboxHub

READS = [
    "/health",
    "/api/v1/operator/export",
    "/api/v1/vaults",
    "/api/v1/export",
    "/api/v1/notes",
    "/api/v1/notes/none.md",
    "/api/v1/proposals",
    "/api/v1/proposals/prop-0",
    "/nowhere",
]
ADMIN_METHODS = ["admin_set_operator_export_secret", "admin_set_gateway_auth_secret", "admin_set_cors_origin"]
GATEWAY_KEY = {"X-Gateway-Auth": "gateway secret"}


@pytest.mark.parametrize("path", READS)
def test_every_reply_is_json(api: Api, path: str) -> None:
    assert api.get(path).headers["content-type"] == "application/json"


def test_health_needs_nothing(api: Api) -> None:
    reply = api.get("/health", headers={"X-User-Id": None})
    assert (reply.status_code, reply.text) == (200, '{"ok":true}')


@pytest.mark.parametrize("path", READS)
def test_one_trailing_slash_changes_nothing(api: Api, path: str) -> None:
    assert api.get(f"{path}/").status_code == api.get(path).status_code


@pytest.mark.parametrize("path", ["/health//", "/", "/api/v1", "/api/v1/export//", "/api/v1/unknown", "/v1/vaults"])
def test_unknown_routes_are_not_found(api: Api, path: str) -> None:
    assert error_code(api.get(path)) == (404, "NOT_FOUND")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "HEAD", "BREW"])
def test_unknown_methods_are_not_found(api: Api, method: str) -> None:
    assert api.request(method, "/api/v1/notes").status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/health"),
        ("POST", "/api/v1/export"),
        ("POST", "/api/v1/notes/a.md"),
        ("POST", "/api/v1/proposals/prop-1"),
        ("POST", "/api/v1/proposals/prop-1/unknown"),
        ("POST", "/api/v1/proposals/prop-1/discard/again"),
        ("DELETE", "/api/v1/notes"),
        ("DELETE", "/api/v1/proposals/prop-1"),
        ("DELETE", "/nowhere"),
    ],
)
def test_unknown_write_routes_are_not_found(api: Api, method: str, path: str) -> None:
    assert error_code(api.request(method, path)) == (404, "NOT_FOUND")


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_the_query_side_asks_for_an_upgrade_of_writes(api: Api, method: str) -> None:
    assert api.candid(method, "/api/v1/notes", {})["upgrade"] is True


def test_reads_are_answered_by_the_query_side(api: Api) -> None:
    assert api.candid("GET", "/health", {})["upgrade"] is None


def test_the_update_side_serves_no_reads(api: Api) -> None:
    assert api.candid("GET", "/health", {}, update=True)["status_code"] == 404


@pytest.mark.parametrize("name", ["X-User-Id", "x-user-id", "X-USER-ID", "x-UsEr-iD"])
def test_header_names_are_case_insensitive(api: Api, name: str) -> None:
    api.write("a.md", "mine")
    assert b'"mine"' in api.candid("GET", "/api/v1/notes/a.md", {name: api.user})["body"]


@pytest.mark.parametrize("value", [None, ""])
def test_no_user_means_the_tenant_default(api: Api, value: str | None) -> None:
    name = f"{api.user}.md"
    assert api.post("/api/v1/notes", {"path": name, "body": ""}, headers={"X-User-Id": value}).status_code == 200
    assert api.get(f"/api/v1/notes/{name}", headers={"X-User-Id": "default"}).status_code == 200


def test_user_ids_are_case_sensitive(api: Api) -> None:
    api.write("a.md")
    assert api.get("/api/v1/notes/a.md", headers={"X-User-Id": api.user.upper()}).status_code == 404


def test_tenants_do_not_see_each_other(api: Api) -> None:
    api.write("a.md")
    assert api.get("/api/v1/export", headers={"X-User-Id": f"{api.user}0"}).json() == {"notes": []}


@pytest.mark.parametrize(
    ("given", "used"),
    [
        (None, "default"),
        ("", "default"),
        ("  ", "default"),
        ("work", "work"),
        ("Work-2_b", "Work-2_b"),
        ("a b", "a_b"),
        ("a/b:c.d", "a_b_c_d"),
        ("*", "_"),
        ("x" * 64, "x" * 64),
        ("x" * 65 + "?", "x" * 64),
    ],
)
def test_vault_ids_are_cleaned(api: Api, given: str | None, used: str) -> None:
    api.write("a.md", vault=given)
    assert api.vaults() == [used]
    assert api.get("/api/v1/notes/a.md", vault=used).status_code == 200


def test_each_character_of_a_vault_id_becomes_one(api: Api) -> None:
    """Characters, not bytes: a header that holds two letters of two bytes each."""
    headers = {"x-user-id": api.user, "x-vault-id": "éß"}
    api.write("a.md", vault="__")
    assert api.candid("GET", "/api/v1/notes/a.md", headers)["status_code"] == 200


def test_the_actor_header_is_ignored(api: Api) -> None:
    api.write("a.md")
    assert api.get("/api/v1/notes/a.md", headers={"X-Actor-Id": "somebody else"}).status_code == 200


# The gateway's secret


@pytest.mark.parametrize("path", [path for path in READS if path != "/health"])
@pytest.mark.parametrize("headers", [{}, {"X-Gateway-Auth": "wrong"}, {"X-Gateway-Auth": ""}])
def test_reads_without_the_gateway_secret_are_refused(
    hub: SandboxHub, api: Api, path: str, headers: dict[str, str]
) -> None:
    hub.set_gateway_secret("gateway secret")
    assert error_code(api.get(path, headers=headers)) == (403, "GATEWAY_AUTH_REQUIRED")


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT"])
def test_other_methods_without_the_gateway_secret_are_refused(hub: SandboxHub, api: Api, method: str) -> None:
    hub.set_gateway_secret("gateway secret")
    assert error_code(api.request(method, "/api/v1/notes", "{}")) == (403, "GATEWAY_AUTH_REQUIRED")


def test_the_update_side_checks_the_gateway_secret_itself(hub: SandboxHub, api: Api) -> None:
    hub.set_gateway_secret("gateway secret")
    assert api.candid("DELETE", "/api/v1/notes/a.md", {}, update=True)["status_code"] == 403


def test_with_the_gateway_secret_requests_pass(hub: SandboxHub, api: Api) -> None:
    hub.set_gateway_secret("gateway secret")
    assert api.get("/api/v1/vaults", headers=GATEWAY_KEY).status_code == 200
    assert api.post("/api/v1/notes", {"path": "a.md", "body": ""}, headers=GATEWAY_KEY).status_code == 200


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/health", 200), ("OPTIONS", "/api/v1/notes", 204)])
def test_health_and_preflight_need_no_gateway_secret(
    hub: SandboxHub, api: Api, method: str, path: str, status: int
) -> None:
    hub.set_gateway_secret("gateway secret")
    assert api.request(method, path).status_code == status


def test_the_gateway_secret_comes_before_the_operator_key(hub: SandboxHub, api: Api) -> None:
    hub.set_gateway_secret("gateway secret")
    hub.set_operator_key("")
    assert api.index().status_code == 403


def test_an_empty_gateway_secret_ends_the_check(hub: SandboxHub, api: Api) -> None:
    hub.set_gateway_secret("gateway secret")
    hub.set_gateway_secret("")
    assert api.get("/api/v1/vaults").status_code == 200


# The operator's key


@pytest.mark.parametrize("key", [None, "", "wrong", "operator secre", "operator secret2", "OPERATOR SECRET"])
def test_the_index_needs_the_operator_key(api: Api, key: str | None) -> None:
    assert error_code(api.index(key=key)) == (401, "UNAUTHORIZED")


@pytest.mark.parametrize("key", [None, "", "operator secret"])
def test_without_a_configured_key_there_is_no_index(hub: SandboxHub, api: Api, key: str | None) -> None:
    hub.set_operator_key("")
    assert error_code(api.index(key=key)) == (503, "SERVICE_UNAVAILABLE")


def test_the_operator_key_opens_the_index(api: Api) -> None:
    assert api.index().status_code == 200


# Settings


@pytest.mark.parametrize("method", ADMIN_METHODS)
def test_settings_are_for_controllers(hub: SandboxHub, method: str) -> None:
    with pytest.raises(Rejected, match="only a controller"):
        hub.network.update(hub.hub_id, method, encode([TEXT], ["x"]), b"somebody else")


def test_there_are_no_getters_for_secrets() -> None:
    did = (resources.files("knowtation_backup.sandbox.hub") / "wasm" / "hub.did").read_text()
    service = did.partition("service : {")[2]
    assert "http_request:" in service
    assert re.findall(r"admin_\w+: \([^)]*\) -> \((.*)\)", service) == [""] * 5


# CORS


def test_cors_headers_name_the_configured_origin(hub: SandboxHub, api: Api) -> None:
    hub.set_cors_origin("https://app.example")
    for method, path in [("GET", "/health"), ("GET", "/nowhere"), ("OPTIONS", "/api/v1/notes"), ("POST", "/nowhere")]:
        headers = api.request(method, path).headers
        assert headers["access-control-allow-origin"] == "https://app.example"
        assert "X-Vault-Id" in headers["access-control-allow-headers"]


def test_the_gateway_refusal_carries_no_cors_headers(hub: SandboxHub, api: Api) -> None:
    hub.set_cors_origin("https://app.example")
    hub.set_gateway_secret("gateway secret")
    response = api.candid("GET", "/api/v1/vaults", {})
    assert response["status_code"] == 403
    assert [header[0] for header in response["headers"]] == ["content-type"]


def test_without_a_configured_origin_there_are_no_cors_headers(api: Api) -> None:
    assert [header[0] for header in api.candid("GET", "/health", {})["headers"]] == ["content-type"]
