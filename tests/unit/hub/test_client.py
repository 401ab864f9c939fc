from __future__ import annotations

import datetime as dt
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from knowtation_backup import BackupError, Event, HubClient
from knowtation_backup.errors import ConfigurationError, ExportError, RejectedError, SourceUnavailableError
from knowtation_backup.hub.index import read_user_index
from knowtation_backup.hub.limits import HubLimits, HubTimeouts

ID = "rrkah-fqaaa-aaaaa-aaaaq-cai"
KEY = "operator-key-0123456789-planted-secret"
GATEWAY = "gateway-secret-0123456789-planted"

Respond = Callable[[httpx.Request], httpx.Response]


def client(respond: Respond, **options: Any) -> HubClient:
    waits = options.pop("waits", [])
    defaults = {"operator_key": KEY, "sleep": waits.append, "random": lambda: 1.0}
    address = options.pop("address", "https://hub.example")
    return HubClient(address, transport=httpx.MockTransport(respond), **{**defaults, **options})


def reply(status: int, code: str = "", text: str = "said the hub", **headers: str) -> Respond:
    def respond(_request: httpx.Request) -> httpx.Response:
        if code:
            return httpx.Response(status, json={"error": text, "code": code}, headers=headers)
        return httpx.Response(status, text=text, headers=headers)

    return respond


@pytest.mark.parametrize(
    ("respond", "expected", "kind", "attempts", "hinted"),
    [
        pytest.param(reply(401, "UNAUTHORIZED"), RejectedError, "operator_key", 1, "EXPORT_KEY", id="HUB-13-wrong-key"),
        pytest.param(
            reply(403, "GATEWAY_AUTH_REQUIRED"),
            RejectedError,
            "gateway_auth",
            1,
            "CANISTER_AUTH_SECRET",
            id="HUB-08-gateway",
        ),
        pytest.param(
            reply(503, "SERVICE_UNAVAILABLE"),
            RejectedError,
            "not_configured",
            1,
            "admin_set_operator_export_secret",
            id="HUB-13-never-configured",
        ),
        pytest.param(reply(403, "FORBIDDEN"), RejectedError, "forbidden", 1, "", id="HUB-13-forbidden"),
        pytest.param(reply(404, "NOT_FOUND"), RejectedError, "not_found", 1, "address", id="HUB-13-not-found"),
        pytest.param(reply(400, "BAD_REQUEST"), RejectedError, "rejected", 1, "", id="HUB-13-bad-request"),
        pytest.param(reply(500, "BROKEN"), RejectedError, "rejected", 1, "", id="HUB-13-5xx-with-code"),
        pytest.param(
            reply(302, location="https://x.example"), RejectedError, "redirected", 1, "final", id="HUB-13-redirect"
        ),
        pytest.param(reply(500), SourceUnavailableError, "hub_unavailable", 5, "cycles", id="HUB-14-5xx-without-code"),
        pytest.param(reply(503), SourceUnavailableError, "hub_unavailable", 5, "cycles", id="HUB-14-503-without-code"),
        pytest.param(reply(429), SourceUnavailableError, "overloaded", 5, "concurrency", id="HUB-14-429"),
        pytest.param(reply(408), SourceUnavailableError, "hub_unavailable", 5, "", id="HUB-14-408"),
        pytest.param(reply(425), SourceUnavailableError, "hub_unavailable", 5, "", id="HUB-14-425"),
    ],
)
def test_statuses(respond: Respond, expected: type[BackupError], kind: str, attempts: int, hinted: str) -> None:
    requests: list[httpx.Request] = []

    def counted(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return respond(request)

    with pytest.raises(expected) as caught:
        client(counted).index_page()
    error = caught.value
    assert (error.kind, len(requests), error.retryable) == (kind, attempts, attempts > 1)
    assert hinted in error.hint
    assert str(error.context["status"]) in error.message
    assert pickle.loads(pickle.dumps(error)).context == error.context  # noqa: S301 - our own bytes


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (httpx.ConnectError("refused"), "unreachable"),
        (httpx.ConnectTimeout("late"), "unreachable"),
        (httpx.ReadTimeout("late"), "timeout"),
        (httpx.ReadError("reset"), "connection_lost"),
        (httpx.RemoteProtocolError("cut"), "connection_lost"),
        (ConnectionResetError(104, "Connection reset by peer"), "connection_lost"),
    ],
)
def test_hub_14_connection_failures_are_repeated(raised: Exception, kind: str) -> None:
    waits: list[float] = []
    events: list[Event] = []

    def respond(_request: httpx.Request) -> httpx.Response:
        raise raised

    with pytest.raises(SourceUnavailableError) as caught:
        client(respond, waits=waits, observer=events.append).vaults("u")
    assert caught.value.kind == kind
    assert waits == [0.5, 1, 2, 4]
    assert [event.name for event in events] == ["hub.retry"] * 4
    assert events[1].fields == {"route": "vaults", "attempt": 2, "delay_seconds": 1, "kind": kind, "status": None}


def test_unsendable_request_is_not_repeated_and_its_text_not_shown() -> None:
    def respond(_request: httpx.Request) -> httpx.Response:
        raise httpx.LocalProtocolError(f"Illegal header value {KEY}")

    with pytest.raises(ConfigurationError) as caught:
        client(respond).vaults("u")
    assert KEY not in repr(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("header", "expected"),
    [("7", 7.0), ("Sat, 21 Nov 2026 00:00:20 GMT", 20.0), ("soon", 0.5), ("-3", 0.5), ("99999999999999", 120.0)],
)
def test_hub_14_retry_after(header: str, expected: float) -> None:
    waits: list[float] = []
    now = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
    with pytest.raises(SourceUnavailableError):
        client(reply(429, **{"Retry-After": header}), waits=waits, clock=lambda: now).vaults("u")
    assert waits[0] == expected


def test_recovers_and_counts() -> None:
    answers = iter([httpx.Response(502), httpx.Response(429), httpx.Response(200, json={"vaults": [{"id": "a"}]})])
    hub = client(lambda _request: next(answers))
    assert hub.vaults("u") == ("a",)
    assert (hub.stats.requests, hub.stats.retries) == (3, 2)
    assert hub.stats.retries_by_kind == {"hub_unavailable": 1, "overloaded": 1}


def test_hub_08_gateway_secret_goes_with_every_request() -> None:
    seen: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"ok": True, "user_ids": [], "done": True, "path": "p"})

    for secret in (GATEWAY, None):
        hub = client(respond, gateway_secret=secret)
        hub.health()
        hub.index_page()
        hub.vaults("u")
        hub.export("u", "v")
        hub.proposal_stubs("u", "v")
        hub.proposal("u", "v", {"proposal_id": "p"})
    assert len(seen) == 12
    assert all(request.headers.get("x-gateway-auth") == GATEWAY for request in seen[:6])
    assert all("x-gateway-auth" not in request.headers for request in seen[6:])
    assert [i for i, r in enumerate(seen[:6]) if "x-operator-export-key" in r.headers] == [1]


@pytest.mark.parametrize("user_id", ["grün", "google:1", "a b"])
def test_ids_travel_as_latin_1(user_id: str) -> None:
    seen: list[bytes] = []

    def respond(request: httpx.Request) -> httpx.Response:
        seen.extend(value for name, value in request.headers.raw if name.lower() == b"x-user-id")
        return httpx.Response(200, json={"vaults": []})

    client(respond).vaults(user_id)
    assert seen == [user_id.encode("latin-1")]


@pytest.mark.parametrize("user_id", ["", "日本", " a", "a\n", "a\x00b", "x\r\nX-User-Id: y", "\udc80"])
def test_ids_that_would_change_on_the_way_are_refused(user_id: str) -> None:
    with pytest.raises(ExportError) as caught:
        client(reply(500)).vaults(user_id)
    assert caught.value.kind == "id_not_sendable"
    str(caught.value).encode()  # no lone surrogate leaks into messages


@pytest.mark.parametrize(
    ("proposal_id", "target"),
    [
        ("prop-1", b"/api/v1/proposals/prop-1"),
        ("a/b?c#d e%", b"/api/v1/proposals/a%2Fb%3Fc%23d%20e%25"),
        ("é!~*'()", b"/api/v1/proposals/%C3%A9!~*'()"),
        ("..", b"/api/v1/proposals/%2E%2E"),
    ],
)
def test_hub_05_proposal_ids_are_percent_encoded(proposal_id: str, target: bytes) -> None:
    seen: list[bytes] = []

    def respond(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.raw_path)
        return httpx.Response(200, json={"proposal_id": proposal_id})

    client(respond).proposal("u", "v", {"proposal_id": proposal_id})
    assert seen == [target]


def test_id_with_lone_surrogate_is_refused() -> None:
    with pytest.raises(ExportError, match="surrogate"):
        client(reply(500)).proposal("u", "v", {"proposal_id": "\ud800"})


@pytest.mark.parametrize(
    ("body", "hinted"),
    [(b"<html>hello</html>", "web page"), (b"", ""), (b'{"vaults":[', ""), (b"\xff\xfe", ""), (b"NaN", "")],
)
def test_reply_that_is_not_json(body: bytes, hinted: str) -> None:
    requests = 0

    def respond(_request: httpx.Request) -> httpx.Response:
        nonlocal requests
        requests += 1
        return httpx.Response(200, content=body)

    with pytest.raises(ExportError) as caught:
        client(respond).vaults("u")
    assert caught.value.kind == "reply_not_json"
    assert hinted in caught.value.hint
    assert requests == 2  # read once more: data is the same twice, an accident is not


def test_reply_that_is_not_json_by_accident() -> None:
    bodies = iter([b'{"vaults":[{"i', b'{"vaults":[{"id":"a"}]}'])
    assert client(lambda _request: httpx.Response(200, content=next(bodies))).vaults("u") == ("a",)


def test_nested_bomb_is_refused() -> None:
    with pytest.raises(ExportError) as caught:
        client(lambda _request: httpx.Response(200, content=b"[" * 1_000_000)).vaults("u")
    assert caught.value.kind == "reply_not_json"


def test_huge_reply_is_refused_before_it_is_read() -> None:
    sent = 0

    class Endless(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            nonlocal sent
            while True:
                sent += 1000
                yield b"x" * 1000

    with pytest.raises(ExportError) as caught:
        client(lambda _request: httpx.Response(200, stream=Endless()), limits=HubLimits(reply_bytes=50_000)).vaults("u")
    assert caught.value.kind == "reply_too_large"
    assert sent <= 52_000


def test_huge_error_reply_is_refused_too() -> None:
    respond = reply(500, text="x" * 60_000)
    with pytest.raises(ExportError) as caught:
        client(respond, limits=HubLimits(reply_bytes=50_000)).vaults("u")
    assert caught.value.kind == "reply_too_large"


def test_compressed_reply_is_refused() -> None:
    seen: list[str] = []

    def respond(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["accept-encoding"])
        return httpx.Response(200, stream=httpx.ByteStream(b"\x1f\x8b"), headers={"Content-Encoding": "gzip"})

    with pytest.raises(ExportError) as caught:
        client(respond).vaults("u")
    assert caught.value.kind == "encoded_reply"
    assert seen == ["identity"]


def test_dripping_reply_ends_at_the_deadline() -> None:
    now = 0.0

    class Drip(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            nonlocal now
            while True:
                now += 10
                yield b" "

    with pytest.raises(SourceUnavailableError) as caught:
        client(
            lambda _request: httpx.Response(200, stream=Drip()),
            monotonic=lambda: now,
            timeouts=HubTimeouts(total_seconds=60),
        ).vaults("u")
    assert caught.value.kind == "timeout"
    assert now < 5 * 80


def test_message_holds_at_most_200_characters_and_no_secret() -> None:
    text = f"key {KEY} and {GATEWAY} \x1b[31m" + "x" * 5000
    with pytest.raises(RejectedError) as caught:
        client(reply(400, text=text), gateway_secret=GATEWAY).vaults("u")
    message = caught.value.message
    assert KEY not in message
    assert GATEWAY not in message
    assert "\x1b" not in message
    assert len(message) < 300


@pytest.mark.parametrize("bad", ["", "   ", "a\nb", "日本", "a\x00"])
def test_unusable_secrets_are_refused_without_repeating_them(bad: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        HubClient("https://hub.example", operator_key=bad)
    assert caught.value.kind == "bad_secret"
    assert not bad.strip() or bad not in str(caught.value)


def test_secret_from_a_file_with_newline_is_accepted() -> None:
    seen: list[str] = []

    def respond(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["x-operator-export-key"])
        return httpx.Response(200, json={"user_ids": [], "done": True})

    client(respond, operator_key=f"{KEY}\n").index_page()
    assert seen == [KEY]


def test_index_needs_the_operator_key() -> None:
    with pytest.raises(ConfigurationError) as caught:
        client(reply(200), operator_key=None).index_page()
    assert caught.value.kind == "operator_key_missing"


def test_repr_shows_the_address_only() -> None:
    assert repr(client(reply(200), gateway_secret=GATEWAY)) == "HubClient('https://hub.example')"


class TestRawHost:
    def respond(self, request: httpx.Request) -> httpx.Response:
        self.hosts.append(request.url.host)
        if ".raw." in request.url.host:
            return httpx.Response(200, json={"vaults": [{"id": "a"}]})
        return httpx.Response(503, text="response verification error")

    def setup_method(self) -> None:
        self.hosts: list[str] = []

    def test_hub_12_is_tried_once_and_kept(self) -> None:
        events: list[Event] = []
        hub = client(self.respond, address=f"https://{ID}.icp0.io", observer=events.append)
        assert hub.vaults("u") == ("a",)
        assert hub.vaults("u") == ("a",)
        assert self.hosts == [f"{ID}.icp0.io", f"{ID}.raw.icp0.io", f"{ID}.raw.icp0.io"]
        assert events == [Event(name="hub.raw_host", fields={"host": f"{ID}.raw.icp0.io"})]

    def test_hub_12_not_for_other_hosts(self) -> None:
        with pytest.raises(SourceUnavailableError):
            client(self.respond).vaults("u")
        assert set(self.hosts) == {"hub.example"}

    def test_hub_12_not_when_the_hub_itself_says_503(self) -> None:
        seen: list[str] = []

        def respond(request: httpx.Request) -> httpx.Response:
            seen.append(request.url.host)
            return httpx.Response(503, json={"error": "", "code": "SERVICE_UNAVAILABLE"})

        with pytest.raises(RejectedError):
            client(respond, address=f"https://{ID}.icp0.io").index_page()
        assert seen == [f"{ID}.icp0.io"]


@pytest.mark.parametrize(
    ("respond", "status"),
    [
        (reply(401, "UNAUTHORIZED"), "operator_key"),
        (reply(403, "GATEWAY_AUTH_REQUIRED"), "gateway_auth"),
        (reply(503, "SERVICE_UNAVAILABLE"), "not_configured"),
        (reply(500), "hub_unavailable"),
    ],
)
def test_hub_21_preflight_names_the_condition(respond: Respond, status: str) -> None:
    def healthy(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"ok": True}) if request.url.path == "/health" else respond(request)

    report = client(healthy, gateway_secret=GATEWAY).preflight()
    assert (report.status, report.ok, report.exit_code) == (status, False, 1)
    assert report.hint in str(report)
    assert KEY not in str(report) + repr(report)


def test_hub_21_preflight_of_a_ready_hub_and_of_a_sick_one() -> None:
    ready = {"ok": True, "user_ids": [], "done": True}
    assert client(lambda _request: httpx.Response(200, json=ready)).preflight().exit_code == 0
    assert client(lambda _request: httpx.Response(200, json={**ready, "ok": False})).preflight().status == "unhealthy"


def pages(*bodies: dict[str, Any]) -> tuple[HubClient, list[str]]:
    seen: list[str] = []
    answers = iter(bodies)

    def respond(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.query.decode())
        return httpx.Response(200, json=next(answers))

    return client(respond), seen


def test_hub_02_follows_the_cursor_and_drops_repetitions() -> None:
    hub, seen = pages(
        {"user_ids": ["a", "b"], "next_cursor": "2", "done": False},
        {"user_ids": ["b", "c"], "next_cursor": "4", "done": False},
        {"user_ids": ["d"], "next_cursor": "", "done": True},
    )
    assert read_user_index(hub) == ("a", "b", "c", "d")
    assert seen == ["limit=200", "cursor=2&limit=200", "cursor=4&limit=200"]


@pytest.mark.parametrize(
    "last",
    [{"user_ids": ["b"]}, {"user_ids": ["b"], "next_cursor": "", "done": False}, {"user_ids": ["b"], "done": True}],
)
def test_hub_02_stops_without_cursor(last: dict[str, Any]) -> None:
    hub, _ = pages({"user_ids": ["a"], "next_cursor": "1"}, last)
    assert read_user_index(hub) == ("a", "b")


def test_hub_02_page_without_list_counts_as_empty() -> None:
    hub, _ = pages({"user_ids": "a", "next_cursor": "1"}, {"user_ids": ["b"], "done": True})
    assert read_user_index(hub) == ("b",)


@pytest.mark.parametrize("cursors", [["1", "1"], ["5", "3"], ["0"], ["x"], ["-1"], ["1" * 5000, "1"]])
def test_hub_02_cursor_that_does_not_grow_is_a_loop(cursors: list[str]) -> None:
    hub, seen = pages(*({"user_ids": [f"u{i}"], "next_cursor": cursor} for i, cursor in enumerate(cursors)))
    with pytest.raises(ExportError) as caught:
        read_user_index(hub)
    assert caught.value.kind == "index_loop"
    assert len(seen) == len(cursors)


@pytest.mark.parametrize(
    "limits",
    [HubLimits(index_pages=7), HubLimits(index_users=7), HubLimits(empty_pages=7)],
    ids=["pages", "users", "empty"],
)
def test_hub_02_endless_pagination_ends(limits: HubLimits) -> None:
    page = 0

    def respond(_request: httpx.Request) -> httpx.Response:
        nonlocal page
        page += 1
        users = [] if limits.empty_pages == 7 else [f"u{page}"]
        return httpx.Response(200, json={"user_ids": users, "next_cursor": str(page), "done": False})

    with pytest.raises(ExportError) as caught:
        read_user_index(client(respond, limits=limits))
    assert caught.value.kind == "index_loop"
    assert page <= 9
