"""Verification names what differs; segments give tenants back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from knowtation_backup._engine.canonical import dumps, loads
from knowtation_backup.errors import DigestMismatchError, ManifestError, SourceUnavailableError, TruncatedError
from knowtation_backup.exports.checking import TenantSegments, verify_payload
from knowtation_backup.exports.reader import ExportReader
from knowtation_backup.model.reports import Finding

Pieces = Callable[..., list[bytes]]


@pytest.fixture
def details(full: dict[str, Any]) -> dict[str, Any]:
    """Details as an exporter records them."""
    data = dumps(full)
    reader = ExportReader([data]).read_all()
    tenants = []
    for user, digest in zip(full["users"], reader.tenants, strict=True):
        raw = dumps(user)
        place = {"offset": data.index(raw), "size_bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
        tenants.append({**digest.to_json(), **place})
    return {
        "payload_sha256": hashlib.sha256(data).hexdigest(),
        "payload_size_bytes": len(data),
        "content_root": reader.content_root,
        "counts": {**reader.counts, "failed_tenants": 0},
        "tenants": tenants,
    }


def codes(findings: list[Finding]) -> set[tuple[str, str]]:
    return {(finding.code, finding.where) for finding in findings}


@pytest.mark.parametrize("size", [997, 10**7])
def test_an_undamaged_payload_has_no_findings(
    full: dict[str, Any], details: dict[str, Any], pieces: Pieces, size: int
) -> None:
    assert verify_payload(pieces(full, size), loads(dumps(details))) == []


def test_a_changed_note_names_its_tenant(full: dict[str, Any], details: dict[str, Any], pieces: Pieces) -> None:
    full["users"][0]["vaults"][2]["notes"][7]["body"] = "?" * 7
    assert codes(verify_payload(pieces(full), details)) == {
        ("payload_digest", "payload"),
        ("content_root", "payload"),
        ("tenant_content", "google:1"),
    }


def test_another_order_changes_only_the_digest(full: dict[str, Any], details: dict[str, Any], pieces: Pieces) -> None:
    full["users"].reverse()
    assert codes(verify_payload(pieces(full), details)) == {("payload_digest", "payload")}


def test_lost_and_added_tenants_are_named(full: dict[str, Any], details: dict[str, Any], pieces: Pieces) -> None:
    full["users"][1]["user_id"] = "github:9"
    assert codes(verify_payload(pieces(full), details)) == {
        ("payload_digest", "payload"),
        ("content_root", "payload"),
        ("tenant_unexpected", "github:9"),
        ("tenant_missing", "github:2"),
    }


@pytest.mark.parametrize("status", ["failed", "absent"])
def test_tenants_known_to_be_missing_are_not_findings(
    full: dict[str, Any], details: dict[str, Any], pieces: Pieces, status: str
) -> None:
    details["tenants"].insert(1, {"user_id": "github:missing", "status": status, "listed": True})
    assert verify_payload(pieces(full), details) == []
    assert len(list(TenantSegments(pieces(full), details))) == 3


def test_a_lost_empty_vault_is_noticed(full: dict[str, Any], details: dict[str, Any], pieces: Pieces) -> None:
    del full["users"][0]["vaults"][1]
    found = codes(verify_payload(pieces(full), details))
    assert {("counts", "vaults"), ("tenant_content", "google:1"), ("payload_size", "payload")} <= found


def test_a_cut_payload_is_named(full: dict[str, Any], details: dict[str, Any]) -> None:
    data = dumps(full)[:-30]
    assert codes(verify_payload([data], details)) == {
        ("payload_size", "payload"),
        ("payload_digest", "payload"),
        ("payload_unreadable", "ü:3"),
    }


def test_damaged_payloads_are_hashed_to_the_end(full: dict[str, Any], details: dict[str, Any], pieces: Pieces) -> None:
    data = dumps(full).replace(b'"vault_id":"work","notes":[', b'"vault_id":"work","notes":}', 1)
    assert codes(verify_payload(pieces(data), details)) == {
        ("payload_digest", "payload"),
        ("payload_unreadable", "google:1"),
    }


def test_incomplete_details_are_findings(full: dict[str, Any], pieces: Pieces) -> None:
    found = codes(verify_payload(pieces(full), {}))
    assert {code for code, _ in found} == {"details_incomplete"}
    assert {where for _, where in found} == {"payload", "tenants", "vaults", "notes", "proposals", "details"}


@pytest.mark.parametrize("good", [0, 3])
def test_a_failing_source_is_not_a_finding(
    full: dict[str, Any], details: dict[str, Any], pieces: Pieces, good: int
) -> None:
    def failing() -> Iterator[bytes]:
        yield from pieces(full)[:good]
        raise SourceUnavailableError("gone")

    with pytest.raises(SourceUnavailableError):
        verify_payload(failing(), details)


@pytest.mark.parametrize("size", [1, 333, 10**7])
def test_segments_are_the_raw_tenants(full: dict[str, Any], details: dict[str, Any], pieces: Pieces, size: int) -> None:
    full["users"][0]["vaults"][0]["notes"].pop()
    data = dumps(full)
    for item, user in zip(details["tenants"], full["users"], strict=True):
        raw = dumps(user)
        item.update(offset=data.index(raw), size_bytes=len(raw), sha256=hashlib.sha256(raw).hexdigest())
    found = {segment.user_id: segment.raw for segment in TenantSegments(pieces(data, size), details)}
    assert found == {user["user_id"]: dumps(user) for user in full["users"]}
    some = [segment.user_id for segment in TenantSegments(pieces(data, size), details, only=["ü:3", "nobody"])]
    assert some == ["ü:3"]


def test_segments_are_proven(full: dict[str, Any], details: dict[str, Any]) -> None:
    data = dumps(full)
    with pytest.raises(DigestMismatchError) as caught:
        list(TenantSegments([data.replace(b"quote", b"Quote")], details))
    assert caught.value.context["user_id"] == "google:1"
    with pytest.raises(TruncatedError):
        list(TenantSegments([data[:-20]], details))


@pytest.mark.parametrize(
    "change",
    [{"offset": 5}, {"offset": "5"}, {"size_bytes": 0}, {"size_bytes": None}, {"sha256": 1}, {"user_id": None}],
)
def test_segments_need_sound_details(full: dict[str, Any], details: dict[str, Any], change: dict[str, Any]) -> None:
    details["tenants"][1].update(change)
    with pytest.raises(ManifestError):
        TenantSegments([dumps(full)], details)
    with pytest.raises(ManifestError):
        TenantSegments([dumps(full)], {"tenants": 5})
