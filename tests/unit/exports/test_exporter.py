from __future__ import annotations

import datetime as dt
import hashlib
import io
import json
import logging
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from knowtation_backup import (
    BackupError,
    CaptureResult,
    Event,
    ExportOptions,
    ExportReader,
    HubClient,
    OperatorExporter,
    PreviousArchive,
    VaultExporter,
)
from knowtation_backup._engine.canonical import dumps, loads
from knowtation_backup.errors import (
    ConfigurationError,
    DigestMismatchError,
    ExportError,
    RejectedError,
    SourceError,
    SourceUnavailableError,
    TruncatedError,
)
from knowtation_backup.hub.limits import HubLimits
from knowtation_backup.observers.log import LogObserver

NOW = dt.datetime(2026, 4, 8, 15, 30, 22, 123456, dt.UTC)
HEAD = '{"format_version":4,"kind":"knowtation-operator-full-export","exported_at":"2026-04-08T15:30:22.123Z","users":['
KEY = "operator-key-0123456789-planted-secret"
GATEWAY = "gateway-secret-0123456789-planted"
Hub = Any  # the fake of conftest.py, which cannot be imported


def export(
    hub: Hub, *, observer: Any = None, client: HubClient | None = None, **options: Any
) -> tuple[bytes, CaptureResult]:
    exporter = OperatorExporter(client or hub.client(), ExportOptions(**options))
    capture = exporter.capture(taken_at=NOW, observer=observer or (lambda _event: None))
    payload = b"".join(capture.chunks())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("prefetch", "decode"))]
    return payload, capture.result()


def note(path: str, body: str = "text", frontmatter: str = "{}") -> dict[str, str]:
    return {"path": path, "frontmatter": frontmatter, "body": body}


def proposal(proposal_id: str, vault_id: str = "default", **more: Any) -> dict[str, Any]:
    return {"proposal_id": proposal_id, "path": "p.md", "status": "proposed", "vault_id": vault_id, **more}


def codes(result: CaptureResult) -> list[str]:
    return sorted({warning.code for warning in result.warnings})


def users(payload: bytes) -> dict[str, Any]:
    return {user["user_id"]: user for user in json.loads(payload)["users"]}


def on_path(
    fragment: str, respond: Callable[[httpx.Request], Any], *, user: str | None = None, vault: str | None = None
) -> Any:
    def rule(request: httpx.Request) -> httpx.Response | None:
        if not request.url.raw_path.decode().partition("?")[0].endswith(fragment):
            return None
        if user not in (None, request.headers.get("x-user-id")) or vault not in (
            None,
            request.headers.get("x-vault-id"),
        ):
            return None
        answer: httpx.Response | None = respond(request)
        return answer

    return rule


def fails(status: int = 500) -> Callable[[httpx.Request], httpx.Response]:
    return lambda _request: httpx.Response(status, text="no")


def test_hub_01_no_tenants(fake_hub: Hub) -> None:
    payload, result = export(fake_hub)
    assert payload.decode() == HEAD + "]}"
    assert result.complete
    assert result.counts["tenants"] == 0


def test_hub_09_payload_bytes(fake_hub: Hub) -> None:
    fake_hub.add(
        "b", notes=[note("z.md", 'q"\\\n'), note("a.md", "é\u2028\x7f")], proposals=[proposal("p1", n=[1, 2.5])]
    )
    fake_hub.add("b", "work")
    fake_hub.add("a", notes=[note("n.md")])
    payload, result = export(fake_hub)
    assert payload.decode() == (
        HEAD
        + '{"user_id":"a","vaults":[{"vault_id":"default","notes":[{"path":"n.md","frontmatter":"{}","body":"text"}]}],'
        '"proposals":[]},{"user_id":"b","vaults":[{"vault_id":"default","notes":['
        '{"path":"z.md","frontmatter":"{}","body":"q\\"\\\\\\n"},{"path":"a.md","frontmatter":"{}","body":"é\u2028\x7f"}]},'
        '{"vault_id":"work","notes":[]}],"proposals":['
        '{"proposal_id":"p1","path":"p.md","status":"proposed","vault_id":"default","n":[1,2.5]}]}]}'
    )
    assert dict(result.counts) == {
        "tenants": 2,
        "vaults": 3,
        "notes": 3,
        "proposals": 1,
        "partial_tenants": 0,
        "failed_tenants": 0,
        "unparseable_proposals": 0,
        "proposals_without_id": 0,
    }


TEXTS = ["\ud800 lone", "\udc00", "nul\x00", "crlf\r\n", "\x1b\x08\x0c", "😀", "\u2028", '"\\/', "\x7f\x80"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_hub_04_notes_are_kept_exactly(fake_hub: Hub, text: str, *, ensure_ascii: bool) -> None:
    fake_hub.add("u")
    value = {"notes": [note(f"{text}.md", text, f"---{text}")]}
    body = json.dumps(value, ensure_ascii=ensure_ascii, indent=1) if ensure_ascii else dumps(value).decode()
    fake_hub.rules.append(
        on_path("/export", lambda request: reply_bytes(body) if "vault" in str(request.headers) else None)
    )
    payload, result = export(fake_hub)
    assert loads(payload)["users"][0]["vaults"][0]["notes"] == value["notes"]
    assert dumps(loads(payload)) == payload
    assert ExportReader([payload]).read_all().content_root == result.details["content_root"]


def reply_bytes(body: str) -> httpx.Response:
    return httpx.Response(200, content=body.encode())


def test_hub_04_unknown_keys_of_notes_are_kept(fake_hub: Hub) -> None:
    fake_hub.add("u", notes=[{**note("a.md"), "pinned": True}])
    payload, result = export(fake_hub)
    assert b'{"path":"a.md","frontmatter":"{}","body":"text","pinned":true}' in payload
    assert ExportReader([payload]).read_all().content_root == result.details["content_root"]


@pytest.mark.parametrize("body", ['{"x":1}', '{"notes":null}'])
def test_hub_04_missing_notes_list_is_empty_with_a_warning(fake_hub: Hub, body: str) -> None:
    fake_hub.add("u")
    fake_hub.rules.append(on_path("/api/v1/export", lambda _request: reply_bytes(body)))
    payload, result = export(fake_hub)
    assert users(payload)["u"]["vaults"] == [{"vault_id": "default", "notes": []}]
    assert codes(result) == ["notes_missing"]


def test_hub_03_default_is_visited_although_the_list_lacks_it(fake_hub: Hub) -> None:
    fake_hub.add("u", "work", notes=[note("w.md")])
    fake_hub.add("u", "default", proposals=[proposal("p")])
    fake_hub.add("v", "work")
    fake_hub.add("v", "default", notes=[note("hidden.md")])
    fake_hub.unlisted |= {("u", "default"), ("v", "default")}
    payload, result = export(fake_hub)
    assert [vault["vault_id"] for vault in users(payload)["u"]["vaults"]] == ["work"]  # empty and unlisted: left out
    assert [item["proposal_id"] for item in users(payload)["u"]["proposals"]] == ["p"]
    assert [vault["vault_id"] for vault in users(payload)["v"]["vaults"]] == ["work", "default"]
    assert codes(result) == ["hidden_vault"]


def test_hub_12_every_run_through_a_verifying_gateway_warns(fake_hub: Hub) -> None:
    def gateway(request: httpx.Request) -> httpx.Response:
        if ".raw." not in request.url.host:
            return httpx.Response(503, text="error: response verification")
        answer: httpx.Response = fake_hub(request)
        return answer

    fake_hub.add("a", notes=[note("n.md")])
    transport = httpx.MockTransport(gateway)
    with HubClient("https://rrkah-fqaaa-aaaaa-aaaaq-cai.icp0.io", operator_key=KEY, transport=transport) as client:
        for _ in range(2):
            _, result = export(fake_hub, client=client)
            assert result.complete
            assert [(w.code, w.where) for w in result.warnings] == [("raw_host", "rrkah-fqaaa-aaaaa-aaaaq-cai.icp0.io")]
            assert "rrkah-fqaaa-aaaaa-aaaaq-cai.raw.icp0.io" in result.warnings[0].message
    assert export(fake_hub)[1].warnings == ()


def test_hub_18_extra_tenants_and_vaults(fake_hub: Hub) -> None:
    fake_hub.add("a", notes=[note("n.md")])
    fake_hub.add("a", "secret", notes=[note("s.md")])
    fake_hub.add("ghost", proposals=[proposal("p")])
    fake_hub.unlisted.add(("a", "secret"))
    fake_hub.hidden.add("ghost")
    payload, result = export(
        fake_hub, extra_users=["ghost", "a", "nobody"], extra_vaults_of={"a": ["secret", "a/b", ""]}
    )
    assert list(users(payload)) == ["a", "ghost"]
    assert [vault["vault_id"] for vault in users(payload)["a"]["vaults"]] == ["default", "secret"]
    assert users(payload)["ghost"] == {"user_id": "ghost", "vaults": [], "proposals": [proposal("p")]}
    assert codes(result) == ["hidden_tenant", "hidden_vault"]
    assert result.complete
    assert [(t["user_id"], t["status"], t["listed"]) for t in result.details["tenants"]] == [
        ("a", "complete", True),
        ("ghost", "complete", False),
        ("nobody", "absent", False),
    ]
    assert "a_b" in {request.headers.get("x-vault-id") for request in fake_hub.requests}
    assert ExportReader([payload]).read_all().content_root == result.details["content_root"]


def test_hub_05_stubs_without_id_are_counted(fake_hub: Hub) -> None:
    fake_hub.add("u", proposals=[proposal("p"), {"path": "x"}, {"proposal_id": "", "path": "y"}])
    payload, result = export(fake_hub)
    assert [item["proposal_id"] for item in users(payload)["u"]["proposals"]] == ["p"]
    assert result.counts["proposals_without_id"] == 2


def test_hub_06_malformed_proposals(fake_hub: Hub) -> None:
    raw = ('{"broken":' + "é😀" * 5000).encode()
    fake_hub.add("u", proposals=[proposal("bad", raw=raw), proposal("good"), proposal("list", raw=b"[]")])
    payload, result = export(fake_hub)
    first, second, third = users(payload)["u"]["proposals"]
    assert list(first) == [
        "proposal_id",
        "path",
        "status",
        "vault_id",
        "_knowtation_backup_json_unparseable",
        "_knowtation_backup_upstream_preview",
    ]
    preview = first["_knowtation_backup_upstream_preview"]
    assert len(preview.encode("utf-16-le", "surrogatepass")) == 8000
    assert raw.decode().startswith(preview.encode("utf-16-le", "surrogatepass")[:7990].decode("utf-16-le", "ignore"))
    assert (second["proposal_id"], third["_knowtation_backup_json_unparseable"]) == ("good", True)
    assert [(file.name, file.content) for file in result.side_files] == [("raw-0001.txt", raw), ("raw-0002.txt", b"[]")]
    assert result.counts["unparseable_proposals"] == 2
    assert result.details["unparseable"][0] == {
        "user_id": "u",
        "vault_id": "default",
        "proposal_id": "bad",
        "side_file": "raw-0001.txt",
    }
    assert result.complete
    assert ExportReader([payload]).read_all().content_root == result.details["content_root"]


def test_hub_06_budget_for_raw_replies(fake_hub: Hub) -> None:
    fake_hub.add("u", proposals=[proposal("bad", raw=b"{" * 1000)])
    with pytest.raises(ExportError) as caught:
        export(fake_hub, raw_replies_bytes=1999)
    assert caught.value.kind == "raw_replies_too_large"
    assert export(fake_hub, raw_replies_bytes=2000)[1].counts["unparseable_proposals"] == 1


def test_hub_07_same_id_in_one_vault_and_in_two(fake_hub: Hub) -> None:
    twice = [proposal("p", intent="first"), proposal("q"), proposal("p", intent="second")]
    fake_hub.add("u", proposals=twice)
    fake_hub.add("u", "work", proposals=[proposal("p", "work", intent="other")])
    payload, result = export(fake_hub)
    kept = [(item["proposal_id"], item["vault_id"]) for item in users(payload)["u"]["proposals"]]
    assert kept == [("p", "default"), ("q", "default"), ("p", "work")]
    assert codes(result) == ["proposal_collision", "proposal_repeated"]


def test_hub_07_hub_that_lists_all_proposals_in_every_vault(fake_hub: Hub) -> None:
    items = [proposal("p", "default"), proposal("q", "work")]
    fake_hub.add("u", "default", proposals=items)
    fake_hub.add("u", "work", proposals=items)
    payload, result = export(fake_hub)
    assert [item["proposal_id"] for item in users(payload)["u"]["proposals"]] == ["p", "q"]
    assert not result.warnings


def test_hub_07_full_object_without_id_is_dropped_and_counted(fake_hub: Hub) -> None:
    fake_hub.add("u", proposals=[proposal("p")])
    fake_hub.rules.append(on_path("/proposals/p", lambda _request: httpx.Response(200, json={"path": "x"})))
    payload, result = export(fake_hub)
    assert users(payload)["u"]["proposals"] == []
    assert result.counts["proposals_without_id"] == 1


def populate(hub: Hub, tenants: int = 12) -> None:
    for number in range(tenants):
        user = f"u{number:02d}"
        hub.add(
            user, notes=[note(f"{i}.md", f"{user} {i}") for i in range(number % 4)], proposals=[proposal(f"{user}-p")]
        )
        hub.add(
            user,
            "work",
            notes=[note("w.md", user * 100)],
            proposals=[proposal(f"{user}-{i}", "work") for i in range(3)],
        )


@pytest.mark.parametrize("payload_form", ["full", "records"])
def test_hub_15_output_does_not_depend_on_concurrency_or_faults(fake_hub: Hub, payload_form: str) -> None:
    populate(fake_hub)
    expected, result = export(fake_hub, concurrency=1, payload=payload_form)
    seen: dict[str, int] = {}

    def every_third(request: httpx.Request) -> httpx.Response | None:
        key = f"{request.url}{request.headers.get('x-user-id')}{request.headers.get('x-vault-id')}"
        seen[key] = seen.get(key, 0) + 1
        return httpx.Response(503, text="busy") if seen[key] == 1 and len(seen) % 3 == 0 else None

    fake_hub.rules.append(every_third)
    waits: list[float] = []
    actual, faulty = export(fake_hub, client=fake_hub.client(waits=waits), concurrency=16, payload=payload_form)
    assert actual == expected
    assert faulty.details["content_root"] == result.details["content_root"]
    assert faulty.details["transfer"]["retries"] == len(waits) > 10
    assert faulty.details["transfer"]["lowest_concurrency"] < 16


def test_hub_16_fail_names_tenant_and_vault(fake_hub: Hub) -> None:
    populate(fake_hub)
    fake_hub.rules.append(on_path("/api/v1/export", fails(), user="u05", vault="work"))
    with pytest.raises(SourceUnavailableError) as caught:
        export(fake_hub)
    assert caught.value.context["user_id"] == "u05"
    assert caught.value.context["vault_id"] == "work"


def test_hub_16_continue_leaves_out_the_failed_tenant_and_names_it(fake_hub: Hub) -> None:
    populate(fake_hub)
    expected = users(export(fake_hub)[0])
    events: list[Event] = []
    fake_hub.rules.append(on_path("/api/v1/vaults", fails(), user="u05"))
    payload, result = export(fake_hub, on_error="continue", observer=events.append)
    del expected["u05"]
    assert users(payload) == expected
    assert not result.complete
    assert result.counts["failed_tenants"] == 1
    (failure,) = result.details["failures"]
    assert (failure["user_id"], failure["what"], failure["kind"]) == ("u05", "tenant", "hub_unavailable")
    assert "u05" in next(warning.where for warning in result.warnings)
    assert [event.fields["user_id"] for event in events if event.name == "export.tenant_failed"] == ["u05"]
    assert ExportReader([payload]).read_all().content_root == result.details["content_root"]


@pytest.mark.parametrize(
    ("fragment", "what", "left"),
    [
        ("/export", "vault", (["default"], 4)),
        ("/proposals", "proposals", (["default", "work"], 1)),
        ("/u05-1", "proposal", (["default", "work"], 3)),
    ],
)
@pytest.mark.parametrize("payload_form", ["full", "records"])
def test_hub_16_partly_read_tenant_is_valid_and_marked(
    fake_hub: Hub, fragment: str, what: str, left: tuple[list[str], int], *, payload_form: str
) -> None:
    populate(fake_hub)
    fake_hub.rules.append(on_path(fragment, fails(), user="u05", vault="work"))
    payload, result = export(fake_hub, on_error="continue", payload=payload_form)
    assert not result.complete
    assert result.counts["partial_tenants"] == 1
    assert [(failure["user_id"], failure["what"]) for failure in result.details["failures"]] == [("u05", what)]
    reader = ExportReader([payload]).read_all()
    assert reader.content_root == result.details["content_root"]
    if payload_form == "full":
        assert [vault["vault_id"] for vault in users(payload)["u05"]["vaults"]] == left[0]
        assert len(users(payload)["u05"]["proposals"]) == left[1]


def test_hub_16_what_concerns_everyone_is_not_isolated(fake_hub: Hub) -> None:
    populate(fake_hub)
    fake_hub.rules.append(
        on_path(
            "/api/v1/vaults", lambda _request: httpx.Response(403, json={"error": "", "code": "GATEWAY_AUTH_REQUIRED"})
        )
    )
    with pytest.raises(RejectedError) as caught:
        export(fake_hub, on_error="continue")
    assert caught.value.kind == "gateway_auth"


def test_hub_14_hub_that_dies_ends_the_run_within_the_budget(fake_hub: Hub) -> None:
    populate(fake_hub, 60)
    requests = 0

    def dies(_request: httpx.Request) -> httpx.Response | None:
        nonlocal requests
        requests += 1
        return httpx.Response(502) if requests > 60 else None

    fake_hub.rules.append(dies)
    waits: list[float] = []
    payload, result = export(fake_hub, client=fake_hub.client(waits=waits), on_error="continue", retry_budget=30)
    assert len(waits) <= 30 + 60 / 4
    assert result.counts["failed_tenants"] > 40
    assert not result.complete
    assert ExportReader([payload]).read_all().content_root == result.details["content_root"]


def test_hub_16_tenant_whose_id_cannot_be_sent(fake_hub: Hub) -> None:
    populate(fake_hub, 2)
    fake_hub.add("日本")
    _, result = export(fake_hub, on_error="continue")
    assert [(failure["user_id"], failure["kind"]) for failure in result.details["failures"]] == [
        ("日本", "id_not_sendable")
    ]


@pytest.mark.parametrize("payload_form", ["full", "records"])
def test_hub_16_resume_reads_only_what_is_missing(fake_hub: Hub, payload_form: str) -> None:
    populate(fake_hub)
    whole, complete = export(fake_hub, payload=payload_form)
    fake_hub.rules.append(on_path("/api/v1/vaults", fails(), user="u05"))
    fake_hub.rules.append(on_path("/api/v1/export", fails(), user="u07", vault="work"))
    first, incomplete = export(fake_hub, on_error="continue", payload=payload_form)
    fake_hub.rules.clear()
    fake_hub.requests.clear()
    details = json.loads(json.dumps(incomplete.details))
    previous = PreviousArchive(details, lambda: iter([first[i : i + 100] for i in range(0, len(first), 100)]))
    events: list[Event] = []
    resumed, result = export(fake_hub, previous=previous, payload=payload_form, observer=events.append)
    assert resumed == whole
    assert result.complete
    assert result.details["content_root"] == complete.details["content_root"]
    assert {r.headers["x-user-id"] for r in fake_hub.requests if "x-user-id" in r.headers} == {"u05", "u07"}
    assert sum(event.name == "export.tenant_copied" for event in events) == 10
    copied = {t["user_id"]: t.get("copied_from") for t in result.details["tenants"]}
    assert (copied["u01"], copied["u05"]) == ("2026-04-08T15:30:22.123Z", None)


def test_hub_16_resume_keeps_a_tenant_that_vanished(fake_hub: Hub) -> None:
    populate(fake_hub, 3)
    first, result = export(fake_hub)
    del fake_hub.tenants["u01"]
    payload, resumed = export(fake_hub, previous=PreviousArchive(result.details, lambda: iter([first])))
    assert list(users(payload)) == ["u00", "u02", "u01"]
    assert codes(resumed) == ["hidden_tenant"]


def test_hub_16_resume_notices_changed_and_cut_payloads(fake_hub: Hub) -> None:
    populate(fake_hub, 3)
    first, result = export(fake_hub)
    changed = first.replace(b"u01 0", b"u01 9")
    assert changed != first
    with pytest.raises(DigestMismatchError):
        export(fake_hub, previous=PreviousArchive(result.details, lambda: iter([changed])))
    with pytest.raises(TruncatedError):
        export(fake_hub, previous=PreviousArchive(result.details, lambda: iter([first[:300]])))


def test_hub_16_resume_refuses_other_hubs_and_forms(fake_hub: Hub) -> None:
    populate(fake_hub, 2)
    first, result = export(fake_hub)
    previous = PreviousArchive(result.details, lambda: iter([first]))
    with pytest.raises(ConfigurationError, match="cannot resume"):
        export(fake_hub, previous=previous, payload="records")
    other = PreviousArchive({**result.details, "source_id": "other"}, lambda: iter([first]))
    with pytest.raises(ConfigurationError, match="cannot resume"):
        export(fake_hub, previous=other)


def test_hub_17_details_locate_and_prove_every_tenant(fake_hub: Hub) -> None:
    populate(fake_hub)
    payload, result = export(fake_hub)
    reader = ExportReader([payload]).read_all()
    assert reader.content_root == result.details["content_root"]
    for entry, digest in zip(result.details["tenants"], reader.tenants, strict=True):
        segment = payload[entry["offset"] : entry["offset"] + entry["size_bytes"]]
        assert hashlib.sha256(segment).hexdigest() == entry["sha256"]
        assert json.loads(segment)["user_id"] == entry["user_id"]
        assert entry["content_root"] == digest.content_root
    json.dumps(result.details)


def test_hub_17_content_root_does_not_depend_on_the_order_of_replies(fake_hub: Hub) -> None:
    populate(fake_hub)
    _, first = export(fake_hub)
    for vaults in fake_hub.tenants.values():
        for vault in vaults.values():
            vault["notes"].reverse()
            vault["proposals"].reverse()
    payload, second = export(fake_hub)
    assert first.details["content_root"] == second.details["content_root"]
    fake_hub.tenants["u03"]["default"]["notes"][0]["body"] += "x"
    assert export(fake_hub)[1].details["content_root"] != first.details["content_root"]
    assert payload


def test_hub_17_index_drift_is_recorded(fake_hub: Hub) -> None:
    populate(fake_hub, 4)

    def change(_request: httpx.Request) -> None:
        fake_hub.tenants.pop("u00", None)
        fake_hub.tenants.setdefault("new", {"default": {"notes": [], "proposals": []}})

    fake_hub.rules.append(on_path("/u03-2", change))
    _, result = export(fake_hub, concurrency=1)
    assert result.details["index"] == {"before": 4, "after": 4, "added": ["new"], "removed": ["u00"]}
    assert codes(result) == ["index_drift"]
    assert result.complete


def test_hub_17_index_that_cannot_be_read_again(fake_hub: Hub) -> None:
    populate(fake_hub, 2)
    reads = 0

    def once(_request: httpx.Request) -> httpx.Response | None:
        nonlocal reads
        reads += 1
        return None if reads == 1 else httpx.Response(500)

    fake_hub.rules.append(on_path("/operator/export", once))
    payload, result = export(fake_hub, on_error="continue")
    assert len(users(payload)) == 2
    assert not result.complete
    assert result.details["index"]["after"] is None
    reads = 0
    with pytest.raises(SourceUnavailableError):
        export(fake_hub)


@pytest.mark.parametrize("payload_form", ["full", "records"])
@pytest.mark.parametrize("how", ["status", "size"])
def test_hub_19_oversized_vault_is_read_note_by_note(fake_hub: Hub, payload_form: str, how: str) -> None:
    fake_hub.add("u", notes=[note("n.md")])
    fake_hub.add("u", "huge", notes=[note(f"{i}.md", "x" * 1000) for i in range(30)] + [note("né.md")])
    fake_hub.add("v", notes=[note("n.md")])
    client = fake_hub.client(limits=HubLimits(reply_bytes=20_000))
    if how == "status":
        fake_hub.rules.append(on_path("/api/v1/export", fails(), vault="huge"))
    known = [*(f"{i}.md" for i in range(29, -1, -1)), "gone.md", "日本.md", "a?b#c.md"]
    payload, result = export(
        fake_hub,
        client=client,
        payload=payload_form,
        known_paths=lambda user, vault: known if (user, vault) == ("u", "huge") else [],
    )
    reader = ExportReader([payload]).read_all()
    assert reader.content_root == result.details["content_root"]
    assert reader.counts["notes"] == 32
    assert not result.complete
    assert [(failure["kind"], failure["name"]) for failure in result.details["failures"]] == [
        ("vault_partial", ""),
        ("note_unreadable", "日本.md"),
    ]
    assert next(t for t in result.details["tenants"] if t["user_id"] == "u")["partial_vaults"] == ["huge"]
    if payload_form == "full":
        assert [item["path"] for item in users(payload)["u"]["vaults"][1]["notes"]] == known[:30]


def test_hub_19_another_note_under_the_misread_path_is_not_taken(fake_hub: Hub) -> None:
    fake_hub.add("u", notes=[note("né.md", "right"), note("n\xc3\xa9.md", "wrong")])
    fake_hub.rules.append(on_path("/api/v1/export", fails()))
    payload, result = export(fake_hub, known_paths=lambda _user, _vault: ["né.md"])
    assert users(payload)["u"]["vaults"] == [{"vault_id": "default", "notes": []}]
    assert [(failure["kind"], failure["name"]) for failure in result.details["failures"]][1:] == [
        ("note_unreadable", "né.md")
    ]


def test_hub_19_without_known_paths_the_vault_fails_with_advice(fake_hub: Hub) -> None:
    fake_hub.add("u", notes=[note("n.md", "x" * 30_000)])
    with pytest.raises(ExportError) as caught:
        export(fake_hub, client=fake_hub.client(limits=HubLimits(reply_bytes=20_000)))
    assert caught.value.kind == "reply_too_large"
    assert "snapshot" in caught.value.hint


def test_hub_19_forecast_warns_before_it_breaks(fake_hub: Hub) -> None:
    fake_hub.add("u", notes=[note("n.md", "x" * 2_300_000)])
    fake_hub.add("v", notes=[note("n.md", "x" * 2_000_000)])
    _, result = export(fake_hub)
    assert [(warning.code, warning.where) for warning in result.warnings] == [("vault_size", "u/default")]


def test_hub_32_double_reading_settles_by_majority(fake_hub: Hub) -> None:
    fake_hub.add("u", notes=[note("a.md", "new"), note("b.md"), note("c.md", "3")])
    fake_hub.add("v", notes=[note("a.md")])
    reads = 0

    def stale(_request: httpx.Request) -> httpx.Response | None:
        nonlocal reads
        reads += 1
        if reads == 2:
            return httpx.Response(200, json={"notes": [note("b.md"), note("a.md", "old"), note("c.md", "2")]})
        return (
            httpx.Response(200, json={"notes": [note("b.md"), note("c.md", "1"), note("a.md", "new")]})
            if reads == 1
            else None
        )

    fake_hub.rules.append(on_path("/api/v1/export", stale, user="u"))
    payload, result = export(fake_hub, consistency="double")
    assert {n["path"]: n["body"] for n in users(payload)["u"]["vaults"][0]["notes"]} == {
        "a.md": "new",
        "b.md": "text",
        "c.md": "3",
    }
    assert reads == 3
    assert [(r["path"], r["settled"]) for r in result.details["remarks"]] == [("a.md", True), ("c.md", False)]
    assert codes(result) == ["readings_differ"]
    assert ExportReader([payload]).read_all().content_root == result.details["content_root"]
    exports = [r for r in fake_hub.requests if r.url.path == "/api/v1/export" and r.headers["x-user-id"] == "v"]
    assert len(exports) == 2  # same both times: no third reading


def test_hub_32_order_alone_is_no_disagreement(fake_hub: Hub) -> None:
    fake_hub.add("u", notes=[note("a.md"), note("b.md")])

    def shuffled(request: httpx.Request) -> None:
        if request.url.path == "/api/v1/export":
            fake_hub.tenants["u"]["default"]["notes"].reverse()

    fake_hub.rules.append(on_path("/api/v1/export", shuffled))
    assert not export(fake_hub, consistency="double")[1].warnings


def test_records_are_sorted_and_complete(fake_hub: Hub) -> None:
    populate(fake_hub)
    fake_hub.add("Z", "b", notes=[note("é.md"), note("z.md"), note("\ud800.md"), note("a\x00.md"), note("a.md")])
    fake_hub.add("Z", "a-b", proposals=[proposal("2", "a-b"), proposal("10", "a-b")])
    fake_hub.hidden.add("u03")
    payload, result = export(fake_hub, payload="records", extra_users=["u03"])
    lines = payload.split(b"\n")
    assert lines[0] == b'{"type":"export","exported_at":"2026-04-08T15:30:22.123Z"}'
    assert lines[-2:] == [dumps({"type": "end", "records": len(lines) - 3}), b""]
    keys = [(entry.user_id.encode(), entry.record().sort_key) for entry in ExportReader([payload])]
    assert keys == sorted(keys)
    assert ExportReader([payload]).read_all().content_root == result.details["content_root"]
    full, _ = export(fake_hub, extra_users=["u03"])
    assert ExportReader([full]).read_all().content_root == result.details["content_root"]


def test_hub_10_single_vault(fake_hub: Hub) -> None:
    fake_hub.add("u", "a/b:c", notes=[note("n.md")], proposals=[proposal("p", "a/b:c"), proposal("q", "a/b:c")])
    capture = VaultExporter(fake_hub.client(operator_key=None), user_id="u", vault_id="a/b:c").capture(taken_at=NOW)
    payload = b"".join(capture.chunks())
    assert (capture.name, capture.suffix, capture.kind) == (
        "canister-export-a_b_c",
        ".json",
        "knowtation-operator-vault-export",
    )
    assert payload.decode() == (
        '{"format_version":2,"kind":"knowtation-operator-vault-export","exported_at":"2026-04-08T15:30:22.123Z",'
        '"vault_id":"a/b:c","notes":[{"path":"n.md","frontmatter":"{}","body":"text"}],"proposals":['
        + ",".join(json.dumps(proposal(p, "a/b:c"), separators=(",", ":")) for p in "pq")
        + "]}"
    )
    reader = ExportReader([payload], user_id="u").read_all()
    assert reader.content_root == capture.result().details["content_root"]
    assert {request.url.path for request in fake_hub.requests}.isdisjoint({"/api/v1/operator/export", "/api/v1/vaults"})


def test_hub_10_empty_vault_and_missing_user(fake_hub: Hub) -> None:
    capture = VaultExporter(fake_hub.client(), user_id="u").capture(taken_at=NOW)
    assert b"".join(capture.chunks()).endswith(b'"vault_id":"default","notes":[],"proposals":[]}')
    assert capture.name == "canister-export-default"
    with pytest.raises(ConfigurationError):
        VaultExporter(fake_hub.client(), user_id=" ")


def test_capture_is_read_once_and_has_no_result_before(fake_hub: Hub) -> None:
    capture = OperatorExporter(fake_hub.client()).capture(taken_at=NOW)
    assert not fake_hub.requests
    with pytest.raises(ConfigurationError):
        capture.result()
    list(capture.chunks())
    with pytest.raises(ConfigurationError):
        list(capture.chunks())
    assert capture.result().complete


def test_leaving_early_ends_all_threads(fake_hub: Hub) -> None:
    for number in range(20):
        fake_hub.add(f"u{number:02d}", notes=[note("n.md", "x" * 300_000)])
    chunks: Iterator[bytes] = OperatorExporter(fake_hub.client()).capture(taken_at=NOW).chunks()
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]  # a generator, as every capture's chunks are
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("prefetch", "decode"))]
    assert len(fake_hub.requests) < 80


def test_observer_that_raises_cancels_the_export(fake_hub: Hub) -> None:
    populate(fake_hub)

    def observer(event: Event) -> None:
        if event.name == "export.index":
            raise LookupError(event.name)

    with pytest.raises(LookupError):
        export(fake_hub, observer=observer)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("prefetch", "decode"))]


def test_progress_has_totals_and_eta(fake_hub: Hub) -> None:
    populate(fake_hub)
    events: list[Event] = []
    payload, _ = export(fake_hub, observer=events.append, progress_seconds=0)
    names = [event.name for event in events]
    assert (names[:2], names[-2:]) == (["export.started", "export.index"], ["export.progress", "export.finished"])
    last = events[-2].fields
    assert (last["tenants_done"], last["tenants_total"], last["eta_seconds"]) == (12, 12, 0)
    assert (last["payload_bytes"], last["proposals"]) == (len(payload), 48)
    done = [event.fields["tenants_done"] for event in events if event.name == "export.progress"]
    assert done == sorted(done)
    assert events[-1].fields["requests"] == len(fake_hub.requests)


def test_planted_secrets_appear_nowhere(fake_hub: Hub) -> None:
    fake_hub.gateway_secret = GATEWAY
    populate(fake_hub, 3)
    fake_hub.rules.append(on_path("/u01-1", lambda r: httpx.Response(500, text=f"{KEY} {r.headers['x-gateway-auth']}")))
    log = io.StringIO()
    logger = logging.getLogger("test_planted_secrets")
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    logger.addHandler(logging.StreamHandler(log))
    said: list[Any] = []

    def observer(event: Event) -> None:
        said.append(event)
        LogObserver(logger=logger)(event)

    client = fake_hub.client(gateway_secret=GATEWAY)
    payload, result = export(fake_hub, client=client, on_error="continue", observer=observer)
    said += [payload, result, result.details, result.warnings, client, client.stats, client.preflight()]
    for rule in (fails(500), lambda r: httpx.Response(401, text=f"{dict(r.headers)}"), raise_with_request):
        fake_hub.rules[:] = [on_path("/operator/export", rule)]
        with pytest.raises(SourceError) as caught:
            export(fake_hub, client=client)
        error: BaseException | None = caught.value
        said.append("".join(traceback.format_exception(caught.value)))
        while error is not None:
            assert isinstance(error, BackupError)  # nothing that refers to a request
            said += [str(error), error.context]
            error = error.__cause__ or error.__context__
    text = repr(said) + log.getvalue()
    assert "hub.retry" in log.getvalue()
    assert "***" in text
    assert KEY not in text
    assert GATEWAY not in text


def raise_with_request(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadError(f"broken {request.headers}", request=request)


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 0},
        {"concurrency": 1000},
        {"on_error": "ignore"},
        {"consistency": "triple"},
        {"payload": "xml"},
        {"buffer_bytes": 0},
        {"extra_users": "google:1"},
    ],
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises((ConfigurationError, ValueError)):
        ExportOptions(**options)
