import json
import re
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowtation_backup.sandbox import candid
from knowtation_backup.sandbox.clock import SandboxClock
from knowtation_backup.sandbox.messages import Answer, Call, Rejected, Replied, RequestState, RequestStatus
from knowtation_backup.sandbox.protocol.exchange import HttpReply, HttpRequest
from knowtation_backup.sandbox.protocol.gateway import MAX_GATEWAY_BODY_BYTES, Gateway, GatewayOptions

CANISTER = bytes.fromhex("00000000000000010101")
TEXT = "rrkah-fqaaa-aaaaa-aaaaq-cai"
HEADERS = candid.Vec(candid.Record({0: candid.TEXT, 1: candid.TEXT}))
REQUEST = candid.Record(
    {
        "method": candid.TEXT,
        "url": candid.TEXT,
        "headers": HEADERS,
        "body": candid.BLOB,
        "certificate_version": candid.Opt(candid.NAT16),
    }
)
# A token type of the canister's own choosing, recursive even.
TOKEN = candid.Record({"position": candid.NAT, "trail": candid.Vec(candid.TEXT)})
CALLBACK = candid.Func((TOKEN,), (), (1,))
RESPONSE = candid.Record(
    {
        "status_code": candid.NAT16,
        "headers": HEADERS,
        "body": candid.BLOB,
        "upgrade": candid.Opt(candid.BOOL),
        "streaming_strategy": candid.Opt(
            candid.Variant({"Callback": candid.Record({"callback": CALLBACK, "token": TOKEN})})
        ),
    }
)
CHUNK = candid.Record({"body": candid.BLOB, "token": candid.Opt(TOKEN)})
Handler = Callable[[dict[str, Any]], Any]


def respond(status: int = 200, body: bytes = b"", headers: dict[str, str] | None = None, **more: Any) -> bytes:
    fields = {
        "status_code": status,
        "headers": [{0: name, 1: value} for name, value in (headers or {}).items()],
        "body": body,
    }
    return candid.encode([RESPONSE], [fields | more])


@attrs.define
class FakeCanister:
    """A replica with one canister whose methods are Python functions."""

    methods: dict[str, Callable[[bytes], bytes]] = attrs.field(factory=dict)
    seen: list[tuple[str, Any]] = attrs.field(factory=list)
    updates: list[Call] = attrs.field(factory=list)
    slow: bool = False

    def query(self, call: Call) -> Answer:
        if call.canister_id != CANISTER:
            return Rejected("IC0301", f"Canister {call.canister_id.hex()} not found")
        if call.method not in self.methods:
            return Rejected("IC0536", f"Query method {call.method} not found.")
        if call.method.startswith("http_request"):
            (fields,) = candid.decode(call.arg, [REQUEST])
            fields["headers"] = [(header[0], header[1]) for header in fields["headers"]]
            self.seen.append((call.method, fields))
        try:
            return Replied(self.methods[call.method](call.arg))
        except Rejected as refusal:
            return refusal

    def call(self, call: Call) -> RequestStatus:
        self.updates.append(call)
        answer = self.query(call)
        if isinstance(answer, Rejected) and answer.error_code == "IC0508":
            raise answer
        state = RequestState.PROCESSING if self.slow else RequestState.REPLIED
        return RequestStatus(
            state=state, sender=call.sender, canister_id=call.canister_id, answer=None if self.slow else answer
        )

    def request_status(self, request_id: bytes) -> RequestStatus | None:
        call = next(call for call in self.updates if call.request_id == request_id)
        return RequestStatus(
            state=RequestState.REPLIED, sender=call.sender, canister_id=CANISTER, answer=self.query(call)
        )

    def tick(self) -> None:
        pass


@pytest.fixture
def canister() -> FakeCanister:
    fake = FakeCanister()
    fake.methods["http_request"] = lambda _: respond(201, b"hello", {"Content-Type": "text/x", "X-Own": "yes"})
    return fake


def gateway(canister: FakeCanister, **options: Any) -> Gateway:
    return Gateway(replica=canister, clock=SandboxClock(), options=GatewayOptions(**options))  # type: ignore[arg-type]


def get(host: str = f"{TEXT}.raw.localhost:8000", **fields: Any) -> HttpRequest:
    headers = (("host", host), *fields.pop("headers", ()))
    return HttpRequest(**{"method": "GET", "path": "/a%20b", "headers": headers, **fields})


def problem(reply: HttpReply) -> tuple[int, str]:
    headers = dict(reply.headers)
    answer = json.loads(reply.body)
    assert headers["x-ic-error-cause"] == answer["error_type"]
    assert answer["description"]
    return reply.status, answer["error_type"]


# Requests and responses


def test_request_and_response_pass_unchanged(canister: FakeCanister) -> None:
    request = get(
        method="get",
        query="q=1&canisterId=x",
        headers=(("x-user-id", "ü"), ("x-request-id", "dropped"), ("accept-encoding", "gzip"), ("x-user-id", "b")),
        body=b"body",
    )
    reply = gateway(canister).handle(request)
    ((method, seen),) = canister.seen
    assert method == "http_request"
    assert (seen["method"], seen["url"], seen["body"], seen["certificate_version"]) == (
        "GET",
        "/a%20b?q=1&canisterId=x",
        b"body",
        2,
    )
    assert seen["headers"] == [
        ("host", f"{TEXT}.raw.localhost:8000"),
        ("x-user-id", "ü"),
        ("x-user-id", "b"),
        ("accept-encoding", "gzip, identity"),
    ]
    assert (reply.status, reply.body) == (201, b"hello")
    assert reply.headers == (("Content-Type", "text/x"), ("X-Own", "yes"), ("access-control-allow-origin", "*"))


def test_canisters_own_cors_and_framing_headers(canister: FakeCanister) -> None:
    own = {"Access-Control-Allow-Origin": "https://x", "Content-Length": "99", "Transfer-Encoding": "chunked"}
    canister.methods["http_request"] = lambda _: respond(200, b"", own)
    assert gateway(canister).handle(get()).headers == (("Access-Control-Allow-Origin", "https://x"),)


@pytest.mark.parametrize("slow", [False, True])
def test_upgrade_to_update(canister: FakeCanister, slow: bool) -> None:  # noqa: FBT001
    canister.slow = slow
    canister.methods["http_request"] = lambda _: respond(400, b"", upgrade=True)
    canister.methods["http_request_update"] = lambda _: respond(200, b"written", upgrade=True)
    reply = gateway(canister).handle(get(method="POST", body=b"note"))
    assert (reply.status, reply.body) == (200, b"written")
    assert [method for method, _ in canister.seen][:2] == ["http_request", "http_request_update"]
    update = canister.seen[1][1]
    assert (update["certificate_version"], update["body"]) == (None, b"note")
    assert canister.updates[0].sender == b"\x04"


def test_equal_updates_are_different_messages(canister: FakeCanister) -> None:
    canister.methods["http_request"] = lambda _: respond(upgrade=True)
    canister.methods["http_request_update"] = lambda _: respond()
    door = gateway(canister)
    for _ in range(3):
        door.handle(get(method="POST"))
    assert len({call.request_id for call in canister.updates}) == 3


# Hosts


@pytest.mark.parametrize(
    ("host", "query"),
    [
        (f"{TEXT}.raw.localhost", ""),
        (f"{TEXT.upper()}.RAW.localhost:1", ""),
        (f"my-app--{TEXT}.raw.localhost", ""),
        ("localhost:4943", f"canisterId={TEXT}"),
        ("127.0.0.1:4943", f"a=b&canisterId={TEXT}"),
        ("[::1]:4943", f"canisterId={TEXT}"),
        (f"{TEXT}.raw.example.org", ""),
    ],
)
def test_ways_to_name_a_canister(canister: FakeCanister, host: str, query: str) -> None:
    door = gateway(canister, base_domains=("localhost", "example.org"))
    assert door.handle(get(host, query=query)).status == 201


@pytest.mark.parametrize(
    ("host", "query", "expected"),
    [
        ("localhost", "", (400, "canister_id_not_resolved")),
        ("127.0.0.1:80", "canister=x", (400, "canister_id_not_resolved")),
        ("raw.localhost", "", (400, "canister_id_not_resolved")),
        ("nonsense.raw.localhost", "", (400, "canister_id_incorrect")),
        ("localhost", "canisterId=nonsense", (400, "canister_id_incorrect")),
        (f"{TEXT}.example.com", "", (400, "client_unknown_domain")),
        (f"a.{TEXT}.raw.localhost", "", (400, "client_unknown_domain")),
        (f"{TEXT}.cooked.localhost", "", (400, "client_unknown_domain")),
        ("bkyz2-fmaaa-aaaaa-qaaaq-cai.raw.localhost", "", (404, "canister_not_found")),
    ],
)
def test_hosts_that_lead_nowhere(canister: FakeCanister, host: str, query: str, expected: tuple[int, str]) -> None:
    assert problem(gateway(canister).handle(get(host, query=query))) == expected


def test_a_port_of_its_own_needs_no_host(canister: FakeCanister) -> None:
    assert gateway(canister).handle(get("127.0.0.1:5"), CANISTER).status == 201


def test_health_of_the_base_domain(canister: FakeCanister) -> None:
    assert gateway(canister).handle(get("localhost", path="/health")).status == 200
    assert canister.seen == []
    assert gateway(canister).handle(get(path="/health")).status == 201


def test_hosts_without_raw_serve_only_what_needs_no_verification(canister: FakeCanister) -> None:
    host = f"{TEXT}.localhost"
    assert problem(gateway(canister).handle(get(host))) == (503, "backend_response_verification")
    assert gateway(canister, serve_unverified=True).handle(get(host)).status == 201
    canister.methods["http_request"] = lambda _: respond(upgrade=True)
    canister.methods["http_request_update"] = lambda _: respond(200, b"certified by the call")
    assert gateway(canister).handle(get(host)).body == b"certified by the call"


# Streams and ranges


def streaming(position: int, callee: bytes = CANISTER) -> tuple[str, Any]:
    token = {"position": position, "trail": ["start"]}
    return "Callback", {"callback": (callee, "more"), "token": token}


@pytest.mark.parametrize("optional", [False, True])
def test_streams_are_collected(canister: FakeCanister, optional: bool) -> None:  # noqa: FBT001
    tokens = []

    def more(arg: bytes) -> bytes:
        (token,) = candid.decode(arg, [TOKEN])
        tokens.append(token)
        position = token["position"]
        following = {"position": position + 1, "trail": [*token["trail"], str(position)]} if position < 3 else None
        chunk = {"body": b"%d" % position, "token": following}
        return candid.encode([candid.Opt(CHUNK) if optional else CHUNK], [chunk])

    canister.methods["http_request"] = lambda _: respond(200, b"0", streaming_strategy=streaming(1))
    canister.methods["more"] = more
    assert gateway(canister).handle(get()).body == b"0123"
    assert tokens == [
        {"position": 1, "trail": ["start"]},
        {"position": 2, "trail": ["start", "1"]},
        {"position": 3, "trail": ["start", "1", "2"]},
    ]


def test_streams_that_go_wrong(canister: FakeCanister) -> None:
    canister.methods["http_request"] = lambda _: respond(streaming_strategy=streaming(1, b"other"))
    assert problem(gateway(canister).handle(get())) == (503, "backend_http_gateway")
    canister.methods["http_request"] = lambda _: respond(streaming_strategy=streaming(1))
    assert problem(gateway(canister).handle(get())) == (503, "canister_error")
    for wrong in (
        b"junk",
        candid.encode([candid.NAT], [1]),
        candid.encode([], []),
        candid.encode([TOKEN], [{"position": 1, "trail": []}]),
    ):
        canister.methods["more"] = lambda _, wrong=wrong: wrong  # type: ignore[misc]
        assert problem(gateway(canister).handle(get())) == (503, "backend_http_gateway")
    endless = candid.encode([CHUNK], [{"body": b"", "token": {"position": 1, "trail": []}}])
    canister.methods["more"] = lambda _: endless
    assert problem(gateway(canister).handle(get())) == (503, "backend_http_gateway")


def ranged(content: bytes, step: int, skip: int = 0) -> Callable[[bytes], bytes]:
    def http_request(arg: bytes) -> bytes:
        (request,) = candid.decode(arg, [REQUEST])
        wanted = {header[0]: header[1] for header in request["headers"]}.get("range", "bytes=0-")
        start = int(re.findall(r"\d+", wanted)[0])
        part = content[start : start + step]
        about = f"bytes {start + skip}-{start + skip + len(part) - 1}/{len(content)}"
        return respond(206, part, {"Content-Range": about, "X": "1"})

    return http_request


def test_partial_responses_are_completed(canister: FakeCanister) -> None:
    canister.methods["http_request"] = ranged(b"0123456789", 4)
    reply = gateway(canister).handle(get())
    assert (reply.status, reply.body) == (200, b"0123456789")
    assert reply.headers == (("X", "1"), ("access-control-allow-origin", "*"))
    assert len(canister.seen) == 3


@pytest.mark.parametrize(
    "strategy",
    [
        candid.Variant({"Callback": candid.Record({"token": candid.NAT})}),
        candid.Variant({"Callback": candid.Record({"callback": candid.TEXT, "token": candid.NAT})}),
        candid.Variant({"Other": candid.NAT}),
        candid.NAT,
    ],
)
def test_unknown_streaming_strategies(canister: FakeCanister, strategy: candid.CandidType) -> None:
    fields: dict[str, candid.CandidType] = {
        "status_code": candid.NAT16,
        "headers": HEADERS,
        "body": candid.BLOB,
        "streaming_strategy": strategy,
    }
    value: Any = 5
    if isinstance(strategy, candid.Variant):
        (alternative,) = strategy.fields
        content = {"callback": "text", "token": 1}
        value = (alternative.key, content if alternative.key == "Callback" else 5)
    answer = candid.encode(
        [candid.Record(fields)], [{"status_code": 200, "headers": [], "body": b"", "streaming_strategy": value}]
    )
    canister.methods["http_request"] = lambda _: answer
    assert problem(gateway(canister).handle(get())) == (503, "backend_http_gateway")


def test_a_range_asked_for_stays_one(canister: FakeCanister) -> None:
    canister.methods["http_request"] = ranged(b"0123456789", 4)
    reply = gateway(canister).handle(get(headers=(("range", "bytes=4-"),)))
    assert (reply.status, reply.body) == (206, b"4567")
    assert dict(reply.headers)["Content-Range"] == "bytes 4-7/10"


def test_ranges_that_do_not_fit(canister: FakeCanister) -> None:
    canister.methods["http_request"] = ranged(b"0123456789", 4, skip=1)
    assert problem(gateway(canister).handle(get())) == (503, "backend_http_gateway")
    canister.methods["http_request"] = lambda _: respond(206, b"part")
    assert problem(gateway(canister).handle(get())) == (503, "backend_http_gateway")


# Errors


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (Rejected("IC0503", "Panicked at x"), (503, "canister_error")),
        (Rejected("IC0508", "Canister is stopped"), (503, "canister_error")),
        (Rejected("IC0406", "no"), (503, "canister_reject")),
        (Rejected("IC0207", "Canister is frozen"), (503, "canister_frozen")),
        (Rejected("IC0207", "out of cycles"), (503, "backend_other")),
        (Rejected("IC0301", "not found"), (404, "canister_not_found")),
    ],
)
@pytest.mark.parametrize("update", [False, True])
def test_rejects_are_mapped(
    canister: FakeCanister,
    refusal: Rejected,
    expected: tuple[int, str],
    update: bool,  # noqa: FBT001
) -> None:
    def fail(_: bytes) -> bytes:
        raise refusal

    canister.methods["http_request"] = (lambda _: respond(upgrade=True)) if update else fail
    canister.methods["http_request_update"] = fail
    reply = gateway(canister).handle(get())
    assert problem(reply) == expected
    assert json.loads(reply.body)["details"] == refusal.message


def test_errors_for_browsers_and_of_the_bare_library(canister: FakeCanister) -> None:
    del canister.methods["http_request"]
    page = gateway(canister).handle(get(headers=(("user-agent", "Mozilla/5.0"),)))
    assert page.status == 503
    assert dict(page.headers)["content-type"] == "text/html; charset=utf-8"
    plain = gateway(canister, plain_errors=True)
    reply = plain.handle(get())
    assert reply.status == 502
    assert reply.body.startswith(b"Replica Error: reject code CANISTER_ERROR, message Query method http_request not fo")
    assert plain.handle(get("bkyz2-fmaaa-aaaaa-qaaaq-cai.raw.localhost")).status == 404


@pytest.mark.parametrize(
    "answer",
    [
        b"junk",
        candid.encode([], []),
        candid.encode([candid.NAT], [1]),
        respond(99),
        candid.encode(
            [candid.Record({"status_code": candid.NAT16, "headers": HEADERS})], [{"status_code": 200, "headers": []}]
        ),
        respond(headers={"x-evil": "a\r\n\r\nsecond"}),
        respond(headers={"not a name": "a"}),
    ],
)
def test_malformed_responses_are_named(canister: FakeCanister, answer: bytes) -> None:
    canister.methods["http_request"] = lambda _: answer
    assert problem(gateway(canister).handle(get())) == (503, "backend_http_gateway")


@given(answer=st.binary(max_size=300) | st.binary(max_size=100).map(lambda tail: respond()[:-4] + tail))
def test_arbitrary_answers_are_served_or_named(answer: bytes) -> None:
    canister = FakeCanister(methods={"http_request": lambda _: answer})
    assert gateway(canister).handle(get()).status in range(100, 1000)


@pytest.mark.parametrize("request_", [get(headers=(("x-user-id", "\udcff"),)), get(path="/\udcff")])
def test_requests_that_are_not_text(canister: FakeCanister, request_: HttpRequest) -> None:
    assert problem(gateway(canister).handle(request_)) == (400, "client_malformed_request")


def test_bodies_that_are_too_large(canister: FakeCanister) -> None:
    assert problem(gateway(canister).handle(get(body=bytes(MAX_GATEWAY_BODY_BYTES + 1)))) == (
        413,
        "client_body_too_large",
    )
    assert problem(gateway(canister).handle(get(body=bytes(2 * 1024 * 1024)))) == (503, "backend_http_gateway")
    assert canister.seen == []
    assert gateway(canister).handle(get(body=bytes(2_000_000))).status == 201
