"""Proposals: shapes, steps and states (contracts 1.6, 1.9)."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from tests.integration.sandbox.hub.conftest import Api, error_code

from knowtation_backup.sandbox.hub import PROPOSAL_KEYS

BAD_REQUEST = (400, "BAD_REQUEST")
ISO_MS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
STUB_KEYS = [
    "proposal_id", "path", "status", "intent", "base_state_id", "external_ref", "vault_id", "created_at", "updated_at",
    "evaluation_status", "evaluation_grade", "evaluated_by", "evaluated_at", "review_queue", "review_severity",
    "auto_flag_reasons_json",
]  # fmt: skip
FULL_KEYS = [
    *STUB_KEYS, "body", "frontmatter", "evaluation_checklist", "evaluation_comment", "evaluation_waiver",
    "review_hints", "review_hints_at", "review_hints_model", "assistant_notes", "assistant_model", "assistant_at",
    "suggested_labels", "assistant_suggested_frontmatter",
]  # fmt: skip


def stored(**fields: Any) -> dict[str, Any]:
    """Return a proposal to plant."""
    base = dict.fromkeys(PROPOSAL_KEYS, "") | {"evaluation_waiver": None, "vault_id": "default", "status": "proposed"}
    return base | {"suggested_labels": "[]", "assistant_suggested_frontmatter": "{}"} | fields


def plant(api: Api, *proposals: dict[str, Any]) -> None:
    vault = {"user_id": api.user, "vault_id": "default", "create_vault": False, "notes": []}
    api.hub.seed_vaults([vault | {"proposals": list(proposals)}])


# Shapes


def test_a_new_proposal(api: Api) -> None:
    fields = {
        "path": "inbox/é.md",
        "body": 'B\n"',
        "intent": "I",
        "base_state_id": "S",
        "external_ref": "E",
        "review_queue": "Q",
        "review_severity": "V",
        "auto_flag_reasons_json": '["r"]',
        "frontmatter": "t: 1\n",
    }
    reply = api.post("/api/v1/proposals", fields)
    proposal_id = reply.json()["proposal_id"]
    assert reply.text == f'{{"proposal_id":"{proposal_id}","path":"inbox/é.md","status":"proposed"}}'
    found = api.proposal(proposal_id)
    assert list(found) == FULL_KEYS
    assert ISO_MS.fullmatch(found["created_at"])
    assert found == dict.fromkeys(FULL_KEYS, "") | fields | {
        "proposal_id": proposal_id,
        "status": "proposed",
        "vault_id": "default",
        "created_at": found["created_at"],
        "updated_at": found["created_at"],
        "evaluation_status": "none",
        "evaluation_checklist": "[]",
        "evaluation_waiver": None,
        "suggested_labels": [],
        "assistant_suggested_frontmatter": {},
    }


def test_the_list_holds_stubs(api: Api) -> None:
    ids = [api.propose("a.md"), api.propose("b.md")]
    listed = api.get("/api/v1/proposals").json()
    assert list(listed) == ["proposals", "total"]
    assert listed["total"] == 2
    assert [stub["proposal_id"] for stub in listed["proposals"]] == ids
    for stub in listed["proposals"]:
        assert list(stub) == STUB_KEYS
        assert all(isinstance(value, str) for value in stub.values())
        full = api.proposal(stub["proposal_id"])
        assert stub == {key: full[key] for key in STUB_KEYS}


def test_only_proposals_of_the_vault_are_shown(api: Api) -> None:
    proposal_id = api.propose(vault="work")
    assert api.proposal(proposal_id, vault="work")["vault_id"] == "work"
    assert error_code(api.get(f"/api/v1/proposals/{proposal_id}")) == (404, "NOT_FOUND")
    assert api.get("/api/v1/proposals").json() == {"proposals": [], "total": 0}


def test_ids_come_from_the_clock(api: Api) -> None:
    before = api.hub.network.clock.now_ns()
    proposal_id = api.propose()
    after = api.hub.network.clock.now_ns()
    assert before < int(proposal_id.removeprefix("prop-")) < after


def test_proposals_of_one_round_share_their_id(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    now = api.hub.network.clock.now_ns()
    monkeypatch.setattr(api.hub.network.clock, "now_ns", lambda: now)
    ids = {api.propose("a.md"), api.propose("b.md"), api.propose("c.md", vault="work")}
    assert len(ids) == 1
    assert api.get("/api/v1/proposals").json()["total"] == 2
    assert api.proposal(ids.pop(), vault="work")["path"] == "c.md"


def test_ids_in_urls_are_percent_decoded(api: Api) -> None:
    plant(api, stored(proposal_id="prop/1 %", path="a.md"))
    assert api.proposal("prop%2F1%20%25")["path"] == "a.md"


@pytest.mark.parametrize(
    ("given", "kept"),
    [("pending", "pending"), ("passed", "none"), ("failed", "none"), ("needs_changes", "none"), ("", "none")],
)
def test_only_a_pending_evaluation_can_be_brought_along(api: Api, given: str, kept: str) -> None:
    assert api.proposal(api.propose(evaluation_status=given))["evaluation_status"] == kept


@pytest.mark.parametrize("body", ["{}", '{"path":""}', '{"body":"x"}'])
def test_a_proposal_needs_a_path(api: Api, body: str) -> None:
    assert error_code(api.post("/api/v1/proposals", body)) == BAD_REQUEST


def test_missing_texts_of_a_proposal_are_empty(api: Api) -> None:
    proposal_id = api.post("/api/v1/proposals", '{"path":"a.md"}').json()["proposal_id"]
    found = api.proposal(proposal_id)
    assert (found["body"], found["frontmatter"], found["auto_flag_reasons_json"]) == ("", "{}", "[]")


# What older hubs left behind


@pytest.mark.parametrize(
    "fields",
    [
        {"suggested_labels": '["never closed'},
        {"suggested_labels": ""},
        {"assistant_suggested_frontmatter": '{"a":1'},
        {"assistant_suggested_frontmatter": '{"a":"line\nend"}'},
    ],
)
def test_a_stored_text_can_make_a_reply_malformed(api: Api, fields: dict[str, str]) -> None:
    plant(api, stored(proposal_id="prop-1", path="a.md", **fields))
    reply = api.get("/api/v1/proposals/prop-1")
    assert reply.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        reply.json()
    assert api.get("/api/v1/proposals").json()["proposals"][0]["path"] == "a.md"


def test_a_blank_vault_id_counts_as_default(api: Api) -> None:
    plant(api, stored(proposal_id="prop-1", vault_id=""))
    assert api.proposal("prop-1")["vault_id"] == ""


def test_the_same_id_can_live_in_two_vaults(api: Api) -> None:
    plant(api, stored(proposal_id="prop-1", path="a.md"), stored(proposal_id="prop-1", path="b.md", vault_id="work"))
    assert api.proposal("prop-1")["path"] == "a.md"
    assert api.proposal("prop-1", vault="work")["path"] == "b.md"


# Enriching


def test_enriching(api: Api) -> None:
    proposal_id = api.propose()
    body = {
        "assistant_notes": "N\n",
        "assistant_model": "M",
        "suggested_labels_json": '[ "a" , {"b":[1.5e-3,true,false,null,"\\u00e9"]} ]',
        "assistant_suggested_frontmatter_json": '{"t":"x","u":{}}',
    }
    reply = api.step(proposal_id, "enrich", body)
    assert (reply.status_code, reply.text) == (200, f'{{"proposal_id":"{proposal_id}","ok":true}}')
    found = api.proposal(proposal_id)
    assert (found["assistant_notes"], found["assistant_model"]) == ("N\n", "M")
    assert found["suggested_labels"] == ["a", {"b": [0.0015, True, False, None, "é"]}]
    assert found["assistant_suggested_frontmatter"] == {"t": "x", "u": {}}
    assert ISO_MS.fullmatch(found["assistant_at"])
    assert found["created_at"] < found["updated_at"] == found["assistant_at"]


@pytest.mark.parametrize(
    ("labels", "frontmatter"),
    [
        ("", ""),
        ("x", "x"),
        ("{}", "[]"),
        ("[", "{"),
        ("[1,]", '{"a":1,}'),
        ("[01]", "{a:1}"),
        ("[1] x", '{"a":1}{}'),
        ('["\t"]', '{"a":"\x01"}'),
        ('["\\x"]', '{"a":"\\u12g4"}'),
        ("[-]", '{"a"}'),
        ("[1.]", '{"a":}'),
        ("[1e]", '{"a":nulx}'),
        ("[" * 1000 + "]" * 1000, "null"),
    ],
)
def test_invalid_json_of_an_assistant_becomes_empty(api: Api, labels: str, frontmatter: str) -> None:
    proposal_id = api.propose()
    body = {"suggested_labels_json": labels, "assistant_suggested_frontmatter_json": frontmatter}
    assert api.step(proposal_id, "enrich", body).status_code == 200
    found = api.proposal(proposal_id)
    assert (found["suggested_labels"], found["assistant_suggested_frontmatter"]) == ([], {})


def test_limits_of_enriching(api: Api) -> None:
    proposal_id = api.propose()
    longest = {
        "assistant_notes": "é" * 16_001,
        "assistant_model": "é" * 129,
        "suggested_labels_json": '["' + "é" * 3_996 + '"]',
        "assistant_suggested_frontmatter_json": '{"a":"' + "é" * 13_992 + '"}',
    }
    assert api.step(proposal_id, "enrich", longest).status_code == 200
    found = api.proposal(proposal_id)
    assert (found["assistant_notes"], found["assistant_model"]) == ("é" * 16_000, "é" * 128)
    assert found["suggested_labels"] == ["é" * 3_996]
    assert found["assistant_suggested_frontmatter"] == {"a": "é" * 13_992}
    for key in ("suggested_labels_json", "assistant_suggested_frontmatter_json"):
        assert error_code(api.step(proposal_id, "enrich", longest | {key: longest[key] + " "})) == BAD_REQUEST


def test_enriching_from_another_vault_is_forbidden(api: Api) -> None:
    proposal_id = api.propose(vault="work")
    assert error_code(api.step(proposal_id, "enrich", {"assistant_notes": "x"})) == (403, "FORBIDDEN")
    assert api.proposal(proposal_id, vault="work")["assistant_notes"] == ""


# Hints and evaluation


def test_review_hints(api: Api) -> None:
    proposal_id = api.propose()
    reply = api.step(proposal_id, "review-hints", {"review_hints": "H", "review_hints_model": "M"})
    assert (reply.status_code, reply.text) == (200, f'{{"proposal_id":"{proposal_id}","ok":true}}')
    found = api.proposal(proposal_id)
    assert (found["review_hints"], found["review_hints_model"]) == ("H", "M")
    assert ISO_MS.fullmatch(found["review_hints_at"])


@pytest.mark.parametrize(
    ("outcome", "status"), [("pass", "passed"), ("fail", "failed"), ("needs_changes", "needs_changes")]
)
def test_evaluations(api: Api, outcome: str, status: str) -> None:
    proposal_id = api.propose()
    checklist = '[{"item":"a","passed":true}]'
    body = {"outcome": outcome, "grade": "B", "comment": "C", "evaluation_checklist_json": checklist}
    reply = api.step(proposal_id, "evaluation", body)
    assert reply.text == f'{{"proposal_id":"{proposal_id}","evaluation_status":"{status}"}}'
    found = api.proposal(proposal_id)
    assert (found["evaluation_status"], found["evaluation_grade"], found["evaluation_comment"]) == (status, "B", "C")
    assert (found["evaluation_checklist"], found["evaluated_by"]) == (checklist, api.user)
    assert ISO_MS.fullmatch(found["evaluated_at"])


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"outcome": "passed"},
        {"outcome": "fail"},
        {"outcome": "fail", "comment": " \n"},
        {"outcome": "needs_changes", "comment": ""},
        {"outcome": "pass", "evaluation_checklist_json": '[{"passed":true},{"passed":false}]'},
    ],
)
def test_refused_evaluations_change_nothing(api: Api, body: dict[str, str]) -> None:
    proposal_id = api.propose()
    assert error_code(api.step(proposal_id, "evaluation", body)) == BAD_REQUEST
    assert api.proposal(proposal_id)["evaluation_status"] == "none"


def test_a_pass_needs_no_comment(api: Api) -> None:
    assert api.step(api.propose(), "evaluation", {"outcome": "pass"}).status_code == 200


# Discarding and approving


def test_discarding(api: Api) -> None:
    proposal_id = api.propose()
    for _ in range(2):
        reply = api.step(proposal_id, "discard", {})
        assert (reply.status_code, reply.text) == (200, f'{{"proposal_id":"{proposal_id}","status":"discarded"}}')
    assert api.proposal(proposal_id)["status"] == "discarded"


def test_discarding_an_unknown_proposal_answers_the_same(api: Api) -> None:
    assert api.step("prop-0", "discard", {}).text == '{"proposal_id":"prop-0","status":"discarded"}'


def test_approving_writes_the_note_and_a_log(api: Api) -> None:
    proposal_id = api.propose("inbox/a.md", vault="work", frontmatter='{"t":1}', external_ref="old")
    api.write("inbox/a.md", "before", vault="work")
    reply = api.step(proposal_id, "approve", {"external_ref": "x" * 600}, vault="work").json()
    log_path = reply["approval_log_path"]
    assert list(reply) == ["proposal_id", "status", "approval_log_path", "approval_log_written", "external_ref"]
    assert (reply["status"], reply["approval_log_written"], reply["external_ref"]) == ("approved", True, "x" * 512)
    found = api.proposal(proposal_id, vault="work")
    assert (found["status"], found["external_ref"], found["body"]) == ("approved", "x" * 512, "proposed")
    assert log_path == f"approvals/{found['updated_at'][:10]}-{proposal_id}.md"
    notes = api.notes("work")
    assert notes["inbox/a.md"] == ('{"t":1}', "proposed")
    assert f"proposal_id: {proposal_id}\n" in notes[log_path][0]
    assert f"approved_at: {found['updated_at']}\n" in notes[log_path][0]
    assert len(notes) == 2


def test_approving_keeps_the_reference_when_none_is_given(api: Api) -> None:
    proposal_id = api.propose(external_ref="kept")
    assert api.step(proposal_id, "approve", {}).json()["external_ref"] == "kept"


@pytest.mark.parametrize("status", ["pending", "failed", "needs_changes"])
def test_an_open_evaluation_needs_a_waiver(api: Api, status: str) -> None:
    plant(api, stored(proposal_id="prop-1", path="a.md", evaluation_status=status))
    for body in ({}, {"waiver_reason": "  "}):
        assert error_code(api.step("prop-1", "approve", body)) == (403, "EVALUATION_REQUIRED")
    assert api.notes() == {}
    assert api.step("prop-1", "approve", {"waiver_reason": 'so "be" it'}).status_code == 200
    found = api.proposal("prop-1")
    assert json.loads(found["evaluation_waiver"]) == {
        "by": api.user,
        "at": found["updated_at"],
        "reason": 'so "be" it',
    }


@pytest.mark.parametrize("status", ["", "none", "passed"])
def test_other_evaluations_need_none(api: Api, status: str) -> None:
    plant(api, stored(proposal_id="prop-1", path="a.md", evaluation_status=status))
    assert api.step("prop-1", "approve", {}).status_code == 200
    assert api.proposal("prop-1")["evaluation_waiver"] is None


@pytest.mark.parametrize("step", ["enrich", "review-hints", "evaluation", "approve"])
def test_steps_of_an_unknown_proposal_are_not_found(api: Api, step: str) -> None:
    assert error_code(api.step("prop-0", step, {"outcome": "pass"})) == (404, "NOT_FOUND")


@pytest.mark.parametrize("status", ["approved", "discarded"])
@pytest.mark.parametrize("step", ["enrich", "review-hints", "evaluation", "approve"])
def test_closed_proposals_take_no_steps(api: Api, status: str, step: str) -> None:
    plant(api, stored(proposal_id="prop-1", path="a.md", status=status))
    before = api.get("/api/v1/proposals/prop-1").text
    assert error_code(api.step("prop-1", step, {"outcome": "pass"})) == BAD_REQUEST
    assert api.get("/api/v1/proposals/prop-1").text == before


def test_an_approved_proposal_cannot_be_discarded(api: Api) -> None:
    proposal_id = api.propose()
    api.step(proposal_id, "approve", {})
    assert error_code(api.step(proposal_id, "discard", {})) == BAD_REQUEST
    assert api.proposal(proposal_id)["status"] == "approved"
