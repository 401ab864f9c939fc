"""A hub read by calls: redirections to updates, bodies in pieces, and what becomes of secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from knowtation_backup._engine.cancellation import Cancellation
from knowtation_backup.errors import ExportError
from knowtation_backup.exports.questions import CalledHub, Question
from knowtation_backup.hub.carrier import HubRequest
from knowtation_backup.ic.canister_http import http_request_arg
from knowtation_backup.sandbox import candid

HUB = b"\x00\x00\x00\x00\x00\x10\x00\x01\x01\x01"
HEADERS = candid.Vec(candid.Record({0: candid.TEXT, 1: candid.TEXT}))
CALLBACK = candid.Record({"callback": candid.Func((candid.NAT,), (candid.RESERVED,), (1,)), "token": candid.NAT})
FIELDS: dict[str, candid.CandidType] = {
    "status_code": candid.NAT16,
    "headers": HEADERS,
    "body": candid.BLOB,
    "upgrade": candid.Opt(candid.BOOL),
    "streaming_strategy": candid.Opt(candid.Variant({"Callback": CALLBACK})),
}
CHUNK = candid.Record({"body": candid.BLOB, "token": candid.Opt(candid.NAT)})
SECRET = "the operator key, which is long enough"
REQUEST = HubRequest(
    route="vaults",
    target="/api/v1/vaults?x=1",
    headers=(("x-operator-export-key", SECRET), ("x-user-id", "é")),
    timeout_seconds=5,
    cancellation=Cancellation(),
    on_retry=lambda _error: None,
)


def response(
    body: bytes = b"", *, upgrade: bool | None = None, callback: bytes | None = None, status: int = 200
) -> bytes:
    strategy = None if callback is None else ("Callback", {"callback": (callback, "more"), "token": 1})
    headers = [{0: "Retry-After", 1: "7"}, {0: "Location", 1: "/there"}]
    value = {"status_code": status, "headers": headers, "body": body, "upgrade": upgrade}
    return candid.encode([candid.Record(FIELDS)], [value | {"streaming_strategy": strategy}])


class Canister:
    """Answers from a list, and remembers what it was asked."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[Question, Mapping[str, str]]] = []

    def __call__(self, question: Question, *, secrets: Mapping[str, str], request: Any = None) -> memoryview:
        assert request is REQUEST
        self.asked.append((question, secrets))
        return memoryview(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])


def test_a_request_becomes_a_question_without_its_secrets() -> None:
    canister = Canister(response(b"[]", status=404))
    reply = CalledHub(canister, HUB, 1000).carry(REQUEST)
    assert (reply.route, reply.status, reply.body) == ("vaults", 404, b"[]")
    assert (reply.retry_after, reply.location) == ("7", "/there")
    ((question, secrets),) = canister.asked
    assert question.headers == (("x-operator-export-key", None), ("x-user-id", "é"))
    assert SECRET not in repr(question) + repr(REQUEST)
    full = [("x-operator-export-key", SECRET), ("x-user-id", "é")]
    assert question.full_arg(secrets) == http_request_arg("GET", "/api/v1/vaults?x=1", full)
    assert question.full_arg({}) == http_request_arg("GET", "/api/v1/vaults?x=1", [(full[0][0], ""), full[1]])


def test_an_upgrade_is_followed_once() -> None:
    canister = Canister(response(upgrade=True), response(b"done", upgrade=True))
    assert CalledHub(canister, HUB, 1000).carry(REQUEST).body == b"done"
    assert [question.method for question, _ in canister.asked] == ["http_request", "http_request_update"]


def test_a_body_in_pieces_is_put_together() -> None:
    pieces = [
        candid.encode([CHUNK], [{"body": b"b", "token": 2}]),
        candid.encode([CHUNK], [{"body": b"c", "token": None}]),
    ]
    canister = Canister(response(b"a", callback=HUB), *pieces)
    assert CalledHub(canister, HUB, 1000).carry(REQUEST).body == b"abc"
    assert [question.method for question, _ in canister.asked] == ["http_request", "more", "more"]
    args = [question.arg for question, _ in canister.asked[1:]]
    assert [candid.decode(arg or b"", [candid.NAT])[0] for arg in args] == [1, 2]


@pytest.mark.parametrize(
    ("callback", "body"), [(HUB, b""), (HUB, b"x" * 600), (b"\x01" + HUB[1:], b"x")], ids=["endless", "large", "alien"]
)
def test_bodies_without_end_or_from_elsewhere_are_refused(callback: bytes, body: bytes) -> None:
    canister = Canister(response(b"a", callback=callback), candid.encode([CHUNK], [{"body": body, "token": 1}]))
    with pytest.raises(ExportError):
        CalledHub(canister, HUB, 1000).carry(REQUEST)
    assert len(canister.asked) <= 1001


@pytest.mark.parametrize(
    "question",
    [
        Question(method="http_request", url="/é", headers=(("a", "b"), ("c", None))),
        Question(method="getStats", arg=b"DIDL\0\0"),
    ],
)
def test_questions_survive_their_json(question: Question) -> None:
    assert Question.from_json(question.to_json()) == question


def test_commitments_depend_on_everything_public() -> None:
    question = Question(method="http_request", url="/a", headers=(("x-user-id", "u"), ("x-gateway-auth", None)))
    base = question.commitment(b"r" * 32, 1)
    assert len(base) == 32
    others = [
        question.commitment(b"s" * 32, 1),
        question.commitment(b"r" * 32, 2),
        Question(method="http_request", url="/b", headers=question.headers).commitment(b"r" * 32, 1),
        Question(method="http_request", url="/a", headers=question.headers[:1]).commitment(b"r" * 32, 1),
    ]
    assert len({base, *others}) == 5


@pytest.mark.parametrize(
    "value",
    [{}, {"method": 1, "arg": ""}, {"method": "x", "arg": "zz"}, {"method": "x", "url": "", "headers": [["a"]]}],
)
def test_what_is_no_question_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises((KeyError, ValueError, TypeError)):
        Question.from_json(value)
