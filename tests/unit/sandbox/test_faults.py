from typing import Any

import cbor2
import pytest

from knowtation_backup.sandbox.faults import (
    Answer,
    AnswerLater,
    Delay,
    FaultPlan,
    ResetAfterExecution,
    ResetBeforeExecution,
    StaleCertificate,
    Tamper,
    Truncate,
)
from knowtation_backup.sandbox.protocol.exchange import HttpReply, HttpRequest
from knowtation_backup.sandbox.request_log import RequestLog

CALL = "/api/v4/canister/rrkah-fqaaa-aaaaa-aaaaq-cai/call"


def request(path: str = "/api/v1/export", *, user: str = "u", method: str = "GET", body: bytes = b"") -> HttpRequest:
    return HttpRequest(method=method, path=path, headers=(("x-user-id", user),), body=body)


def hits(plan: FaultPlan, *requests: HttpRequest) -> list[bool]:
    return [bool(plan.decide(each).faults) for each in requests]


def test_without_rules_nothing_happens() -> None:
    decision = FaultPlan().decide(request())
    assert (decision.delay_seconds, decision.reply, decision.reset, decision.keep, decision.faults) == (
        0.0,
        None,
        None,
        None,
        (),
    )


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, [True, True, True]),
        ({"endpoint": "gateway"}, [True, True, False]),
        ({"endpoint": "call"}, [False, False, True]),
        ({"method": "POST"}, [False, False, True]),
        ({"path_contains": "export"}, [True, False, False]),
        ({"path_contains": "cursor=3"}, [False, True, False]),
        ({"headers": {"X-User-Id": "b"}}, [False, True, False]),
        ({"canister_method": "take_canister_snapshot"}, [False, False, True]),
        ({"nth": 2}, [False, True, False]),
        ({"every": 2}, [False, True, False]),
        ({"limit": 1}, [True, False, False]),
        ({"probability": 0.0}, [False, False, False]),
    ],
)
def test_conditions(conditions: dict[str, Any], expected: list[bool]) -> None:
    plan = FaultPlan()
    plan.add(Answer(status=503), **conditions)
    envelope = cbor2.dumps({"content": {"arg": bytes(70_000), "method_name": "take_canister_snapshot"}})
    seen = [
        request("/api/v1/export", user="a"),
        HttpRequest(method="GET", path="/list", query="cursor=3", headers=(("x-user-id", "b"),)),
        request(CALL, method="POST", body=envelope),
    ]
    assert hits(plan, *seen) == expected


def test_counting_conditions_go_on() -> None:
    plan = FaultPlan()
    rule = plan.add(Answer(status=503), every=3, limit=2)
    assert [index for index, hit in enumerate(hits(plan, *[request()] * 12), 1) if hit] == [3, 6]
    assert (rule.matched, rule.applied) == (12, 2)
    assert plan.rules == (rule,)


def test_probability_depends_on_the_request_and_not_on_the_order() -> None:
    requests = [request(f"/note/{number}", user=str(number % 7)) for number in range(400)]
    shares = []
    for seed in (1, 2):
        forward, backward = FaultPlan(seed=seed), FaultPlan(seed=seed)
        for plan in (forward, backward):
            plan.add(Answer(status=503), probability=0.25)
        first = hits(forward, *requests)
        assert first == hits(backward, *reversed(requests))[::-1]
        assert 60 < sum(first) < 140
        shares.append(first)
    assert shares[0] != shares[1]


def test_a_repeated_request_draws_again() -> None:
    plan = FaultPlan(seed=3)
    plan.add(Answer(status=503), probability=0.5)
    again = hits(plan, *[request()] * 50)
    assert 10 < sum(again) < 40


def test_actions_combine() -> None:
    plan = FaultPlan(latency_seconds=0.5)
    plan.add(Delay(1.0))
    plan.add(Delay(0.25))
    plan.add(ResetAfterExecution())
    plan.add(StaleCertificate(60))
    plan.add(AnswerLater(2), endpoint="call")
    plan.add(Truncate(0.25))
    decision = plan.decide(request(CALL))
    assert decision.delay_seconds == 1.75
    assert decision.reset == "after"
    assert decision.keep == 0.25
    assert decision.directive.certificate_age_ns == 60 * 10**9
    assert decision.directive.answer_after_ns == 2 * 10**9
    assert decision.faults == ("Delay", "Delay", "ResetAfterExecution", "StaleCertificate", "AnswerLater", "Truncate")
    assert plan.decide(request()).directive.answer_after_ns is None
    plan.add(ResetBeforeExecution())
    assert plan.decide(request(CALL)).reset == "before"
    plan.clear()
    assert plan.decide(request(CALL)).delay_seconds == 0
    plan.set_latency(0.1)
    assert plan.decide(request(CALL)).delay_seconds == 0.1


@pytest.mark.parametrize(
    ("action", "status", "text", "retry_after"),
    [
        (Answer(status=429, retry_after_seconds=3), 429, "The service is overloaded.", "3"),
        (Answer(status=503), 503, "Service is overloaded, try again later.", None),
        (Answer(status=500, text='{"a": 1}', content_type="application/json"), 500, '{"a": 1}', None),
    ],
)
def test_answers(action: Answer, status: int, text: str, retry_after: str | None) -> None:
    plan = FaultPlan()
    plan.add(action)
    reply = plan.decide(request()).reply
    assert reply is not None
    assert (reply.status, reply.body.decode()) == (status, text)
    assert dict(reply.headers).get("retry-after") == retry_after
    assert dict(reply.headers)["content-type"] == action.content_type


def spoiled(part: Any, body: bytes) -> bytes:
    plan = FaultPlan()
    plan.add(Tamper(part))
    return plan.decide(request()).spoil(HttpReply(status=200, body=body)).body


def test_tampering_hits_the_part_asked_for() -> None:
    body = cbor2.dumps({"reply": {"arg": bytes(300)}, "signatures": [{"signature": bytes(64)}]})
    reply, signature, middle = (cbor2.loads(spoiled(part, body)) for part in ("reply", "signature", "middle"))
    assert reply["reply"]["arg"] == bytes(299) + b"\x01"
    assert signature["signatures"][0]["signature"] == bytes(63) + b"\x01"
    assert signature["reply"]["arg"] == bytes(300)
    assert middle["reply"]["arg"] not in (bytes(300), reply["reply"]["arg"])
    leaf = b"\x83\x02\x45reply\x82\x03\x43abc\x83\x02\x46status"
    assert spoiled("reply", leaf) == leaf.replace(b"abc", b"abb")


def test_tampering_without_the_part_hits_the_middle() -> None:
    assert spoiled("reply", b'{"ok": 1}') == b'{"ok#: 1}'
    assert spoiled("signature", b"\x69signature") != b"\x69signature"
    assert spoiled("reply", b"") == b""
    assert spoiled("reply", b"\x63arg\x5a\xff\xff\xff\xff") != b"\x63arg\x5a\xff\xff\xff\xff"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Delay(-1),
        lambda: Truncate(1.0),
        lambda: StaleCertificate(0),
        lambda: AnswerLater(-1),
        lambda: FaultPlan().add(Delay(1), probability=1.5),
        lambda: FaultPlan().add(Delay(1), nth=0),
        lambda: FaultPlan().add(Delay(1), every=0),
        lambda: FaultPlan().add(Delay(1), limit=-1),
    ],
)
def test_values_out_of_range_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="must be"):
        wrong()


def test_the_record_counts_and_keeps_no_secrets() -> None:
    log = RequestLog(capacity=3)
    secret = HttpRequest(
        method="GET",
        path="/api/v1/operator/export",
        query="cursor=5",
        headers=(("x-operator-export-key", "planted-secret"), ("x-user-id", "google:1")),
    )
    for _ in range(2):
        log.arrived(secret, ("Delay",))
    log.left()
    log.arrived(request(CALL, body=b"four"), ())
    assert log.counts == {"gateway": 2, "call": 1}
    assert log.total == 3
    assert log.max_in_flight == 2
    seen = log.entries[0]
    assert (seen.method, seen.path, seen.query, seen.faults) == (
        "GET",
        "/api/v1/operator/export",
        "cursor=5",
        ("Delay",),
    )
    assert seen.header_names == ("x-operator-export-key", "x-user-id")
    assert seen.headers == {"x-user-id": "google:1"}
    assert log.entries[2].body_size_bytes == 4
    assert "planted-secret" not in repr(log.entries) + repr(secret) + repr(vars(log))
    log.arrived(request(), ())
    assert (len(log.entries), log.total) == (3, 4)
    log.clear()
    assert (log.entries, log.counts, log.max_in_flight) == ((), {}, 3)
