from __future__ import annotations

import json
from pathlib import Path

import pytest

from knowtation_backup.errors import ConfigurationError
from knowtation_backup.hub.address import HubAddress, is_canister_id

ID = "rrkah-fqaaa-aaaaa-aaaaq-cai"
OTHER = "ryjl3-tyaaa-aaaaa-aaaba-cai"


@pytest.mark.parametrize("text", [ID, OTHER, "aaaaa-aa", "2vxsx-fae"])
def test_canister_ids_have_a_checksum(text: str) -> None:
    assert is_canister_id(text) == (text != "aaaaa-aa")  # the management canister's id is empty: no hub there


@pytest.mark.parametrize(
    "text", ["rrkah-fqaaa-aaaaa-aaaaq-caj", "rrkahfqaaaaaaaaaaaaqcai", "RRKAH-FQAAA", "", "a-b", "x" * 80]
)
def test_not_canister_ids(text: str) -> None:
    assert not is_canister_id(text)


@pytest.mark.parametrize(
    ("text", "base", "source"),
    [
        (ID, f"https://{ID}.raw.icp0.io", ID),
        (f"  {ID}\n", f"https://{ID}.raw.icp0.io", ID),
        (f"https://{ID}.raw.icp0.io/", f"https://{ID}.raw.icp0.io", ID),
        ("https://Hub.Example:8443/base/", "https://hub.example:8443/base", "hub.example:8443"),
        ("https://hub.example:443", "https://hub.example", "hub.example"),
        ("http://127.0.0.1:4943", "http://127.0.0.1:4943", "127.0.0.1:4943"),
        ("http://[::1]:4943", "http://[::1]:4943", "[::1]:4943"),
        (f"http://{ID}.raw.localhost:4943", f"http://{ID}.raw.localhost:4943", ID),
        ("http://localhost", "http://localhost", "localhost"),
    ],
)
def test_hub_12_addresses(text: str, base: str, source: str) -> None:
    address = HubAddress.parse(text)
    assert (address.base_url, address.source_id) == (base, source)
    assert address.url("/health") == f"{base}/health"


def test_canister_id_in_the_query() -> None:
    address = HubAddress.parse(f"http://localhost:4943/?canisterId={ID}")
    assert address.canister_id == ID
    assert address.url("/health") == f"http://localhost:4943/health?canisterId={ID}"
    assert address.url("/x?limit=1") == f"http://localhost:4943/x?limit=1&canisterId={ID}"
    assert str(address) == f"http://localhost:4943?canisterId={ID}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hub.example",
        "ftp://hub.example",
        "https://",
        "https://hub.example/#x",
        "https://hub.example/?key=1",
        "https://hub.example/?canisterId=x",
        "https://hub.example:99999",
        "https://[::1",
        "https://hub example",
    ],
)
def test_unusable_addresses(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        HubAddress.parse(text)
    assert caught.value.kind == "bad_hub_address"
    assert caught.value.hint


def test_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigurationError) as caught:
        HubAddress.parse("https://operator:planted-secret@hub.example")
    assert "planted-secret" not in repr(caught.value) + str(caught.value)


@pytest.mark.parametrize("host", ["hub.example", "10.0.0.1", "localhost.example", "127.0.0.1.example"])
def test_hub_12_plain_http_is_for_loopback_only(host: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        HubAddress.parse(f"http://{host}")
    assert caught.value.kind == "insecure_http"
    assert HubAddress.parse(f"http://{host}", insecure_http=True).base_url == f"http://{host}"


def test_hub_12_raw_host_of_the_public_gateways() -> None:
    raw = HubAddress.parse(f"https://{ID}.icp0.io").raw
    assert raw is not None
    assert raw.base_url == f"https://{ID}.raw.icp0.io"
    assert raw.raw is None
    assert HubAddress.parse("https://hub.example").raw is None


@pytest.mark.parametrize(
    ("environ", "single", "expected"),
    [
        (
            {"KNOWTATION_OPERATOR_EXPORT_URL": "https://a.example/", "KNOWTATION_CANISTER_URL": "https://b.example"},
            False,
            "a",
        ),
        ({"KNOWTATION_OPERATOR_EXPORT_URL": " ", "KNOWTATION_CANISTER_URL": "https://b.example"}, False, "b"),
        ({"KNOWTATION_CANISTER_URL": "", "KNOWTATION_CANISTER_BACKUP_URL": "https://c.example"}, False, "c"),
        (
            {
                "KNOWTATION_OPERATOR_EXPORT_URL": "https://a.example",
                "KNOWTATION_CANISTER_BACKUP_URL": "https://c.example",
            },
            True,
            "c",
        ),
    ],
)
def test_hub_12_precedence_of_variables(environ: dict[str, str], *, single: bool, expected: str) -> None:
    assert HubAddress.resolve(environ, single_vault=single).host == f"{expected}.example"


def test_hub_12_canister_id_file_is_the_last_resort(tmp_path: Path) -> None:
    file = tmp_path / "canister_ids.json"
    file.write_text(json.dumps({"hub": {"ic": ID}, "attestation": {"ic": OTHER}}))
    assert HubAddress.resolve({}, ids_file=file).base_url == f"https://{ID}.raw.icp0.io"
    environ = {"KNOWTATION_CANISTER_URL": "https://b.example"}
    assert HubAddress.resolve(environ, ids_file=file).host == "b.example"


@pytest.mark.parametrize(
    "text", ["", "[]", '{"hub": {}}', '{"hub": {"ic": 7}}', '{"hub": {"ic": "no id"}}', "[" * 100_000]
)
def test_hub_12_unusable_canister_id_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / "canister_ids.json"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        HubAddress.resolve({}, ids_file=file)
    assert caught.value.kind == "bad_ids_file"


def test_nothing_configured(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        HubAddress.resolve({})
    assert caught.value.kind == "no_hub_address"
    with pytest.raises(ConfigurationError) as caught:
        HubAddress.resolve({}, ids_file=tmp_path / "absent.json")
    assert caught.value.kind == "bad_ids_file"
