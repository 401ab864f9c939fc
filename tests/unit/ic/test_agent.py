"""What an agent does without a network behind it: bounds, retries, choices; time passes only when it waits."""

from __future__ import annotations

import datetime as dt
import pickle
from collections.abc import Iterator
from typing import Any

import attrs
import httpx
import pytest

from knowtation_backup._engine.cancellation import Cancellation
from knowtation_backup._engine.retrying import RetryPolicy
from knowtation_backup.errors import (
    CertificateError,
    ConfigurationError,
    OperationCancelledError,
    OutcomeUnknownError,
    RejectedError,
    SourceError,
    SourceUnavailableError,
)
from knowtation_backup.ic.agent import Agent, fetch_root_key
from knowtation_backup.ic.cbor import encode
from knowtation_backup.ic.limits import AgentLimits, AgentTimeouts
from knowtation_backup.model.ids import ANONYMOUS, Principal

CANISTER = Principal.parse("rrkah-fqaaa-aaaaa-aaaaq-cai")
NOTHING = b"DIDL\x00\x00"


@attrs.define
class Network(httpx.BaseTransport):
    """Answers as it is told, one answer after the other, the last one for ever; time passes when the agent waits."""

    answers: list[Any] = attrs.field(factory=list)
    requests: list[httpx.Request] = attrs.field(factory=list)
    pauses: list[float] = attrs.field(factory=list)
    seconds: float = 0.0
    closed: bool = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, httpx.Response)
        return answer

    def close(self) -> None:
        self.closed = True

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.seconds += seconds

    def monotonic(self) -> float:
        return self.seconds


def agent_of(network: Network, **options: Any) -> Agent:
    return Agent(
        "http://127.0.0.1:1",
        transport=network,
        sleep=network.sleep,
        monotonic=network.monotonic,
        random=lambda: 1.0,
        **{"retry": RetryPolicy(attempts=4), **options},
    )


def busy(status: int = 503, **headers: str) -> httpx.Response:
    return httpx.Response(status, text="busy", headers=headers)


def rejected(code: int, error_code: str) -> httpx.Response:
    fields = {"status": "non_replicated_rejection", "reject_code": code, "reject_message": "no"}
    return httpx.Response(200, content=b"\xd9\xd9\xf7" + encode({**fields, "error_code": error_code}))


@pytest.mark.parametrize("ask", ["call", "query"])
def test_connections_that_are_refused_are_tried_a_few_times(ask: str) -> None:
    network = Network([httpx.ConnectError("refused")])
    with agent_of(network) as agent, pytest.raises(SourceUnavailableError) as caught:
        getattr(agent, ask)(CANISTER, "m", NOTHING)
    assert caught.value.kind == "unreachable"
    assert network.pauses == [0.5, 1, 2]
    assert "may_have_run" not in caught.value.context


def test_a_busy_network_does_not_use_up_attempts() -> None:
    network = Network([busy(), busy(), busy(), busy(), httpx.ConnectError("refused")])
    with agent_of(network) as agent, pytest.raises(SourceUnavailableError) as caught:
        agent.read_state(CANISTER, [(b"time",)])
    assert caught.value.kind == "unreachable"
    assert len(network.requests) == 4 + 4


@pytest.mark.parametrize("ask", ["call", "query"])
def test_waiting_ends_before_the_deadline(ask: str) -> None:
    network = Network([busy(429)])
    with agent_of(network) as agent, pytest.raises(SourceUnavailableError):
        getattr(agent, ask)(CANISTER, "m", NOTHING, deadline_seconds=20)
    assert network.seconds < 20


def test_a_wait_longer_than_the_time_left_is_not_begun() -> None:
    network = Network([httpx.Response(429, headers={"retry-after": "100"})])
    with agent_of(network) as agent, pytest.raises(SourceUnavailableError) as caught:
        agent.call(CANISTER, "m", NOTHING, deadline_seconds=60)
    assert caught.value.context["retry_after_seconds"] == 100
    assert network.pauses == []


def test_refusals_for_the_pace_before_consensus_are_waited_out_with_the_same_envelope() -> None:
    network = Network([rejected(2, "IC0204"), rejected(2, "IC0204"), rejected(2, "IC0207")])
    with agent_of(network) as agent, pytest.raises(RejectedError) as caught:
        agent.call(CANISTER, "m", NOTHING)
    assert caught.value.kind == "out_of_cycles"  # which waiting does not help
    assert network.pauses == [0.5, 1]
    assert len({request.content for request in network.requests}) == 1


def test_a_call_that_may_have_run_is_unknown_when_nothing_tells_its_fate() -> None:
    network = Network([httpx.ReadTimeout("late")])
    with agent_of(network) as agent, pytest.raises(OutcomeUnknownError) as caught:
        agent.call(CANISTER, "m", NOTHING, deadline_seconds=100)
    assert network.seconds < 100
    assert {request.url.path.rpartition("/")[2] for request in network.requests} == {"call", "read_state"}
    copied = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own
    assert (copied.kind, copied.context) == (caught.value.kind, caught.value.context)


def test_a_body_that_drips_ends_with_the_attempt() -> None:
    network = Network()

    def drip() -> Iterator[bytes]:
        while True:
            network.seconds += 10
            yield b"x"

    class Dripping(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            return drip()

    network.answers.append(httpx.Response(200, stream=Dripping()))
    timeouts = AgentTimeouts(attempt_seconds=50)
    with agent_of(network, timeouts=timeouts) as agent, pytest.raises(SourceUnavailableError) as caught:
        agent.call(CANISTER, "m", NOTHING, repeatable=True, deadline_seconds=1000)
    assert caught.value.kind == "timeout"
    assert len(network.requests) == 4


def test_every_request_is_new_and_asks_for_plain_cbor() -> None:
    network = Network([rejected(3, "IC0301")])
    with agent_of(network) as agent:
        for _ in range(3):
            with pytest.raises(RejectedError):
                agent.call(CANISTER, "m", [b"DI", memoryview(b"DL\x00"), bytearray(1)])
    assert len({request.content for request in network.requests}) == 3
    request = network.requests[0]
    assert request.headers["content-type"] == "application/cbor"
    assert request.headers["accept-encoding"] == "identity"
    assert request.url.path == f"/api/v4/canister/{CANISTER}/call"
    assert b"\x63arg\x46DIDL\x00\x00" in request.content


def test_redirects_are_not_followed() -> None:
    network = Network([httpx.Response(307, headers={"location": "https://elsewhere.example/"})])
    with agent_of(network) as agent, pytest.raises(RejectedError) as caught:
        agent.call(CANISTER, "m", NOTHING)
    assert caught.value.kind == "redirected"
    assert len(network.requests) == 1


def test_a_limit_on_answers_is_kept_for_all_of_them() -> None:
    network = Network([httpx.Response(500, content=bytes(2000))])
    with agent_of(network, limits=AgentLimits(reply_bytes=1000)) as agent:
        for ask in (
            lambda: agent.call(CANISTER, "m", NOTHING),
            lambda: agent.query(CANISTER, "m", NOTHING),
            lambda: agent.read_state(CANISTER, []),
            agent.status,
        ):
            with pytest.raises(SourceError) as caught:
                ask()
            assert caught.value.kind == "reply_too_large"


@pytest.mark.parametrize("field", [f.name for f in attrs.fields(AgentTimeouts)])
def test_timeouts_are_positive(field: str) -> None:
    with pytest.raises(ConfigurationError):
        AgentTimeouts(**{field: 0})


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_deadline_is_positive(seconds: float) -> None:
    with agent_of(Network()) as agent, pytest.raises(ConfigurationError) as caught:
        agent.call(CANISTER, "m", NOTHING, deadline_seconds=seconds)
    assert caught.value.kind == "bad_option"


def test_cancellation_ends_a_pause() -> None:
    cancellation = Cancellation()
    network = Network([busy()])

    def cancel(_error: object) -> None:
        cancellation.cancel()

    with agent_of(network) as agent, pytest.raises(OperationCancelledError) as caught:
        agent.call(CANISTER, "m", NOTHING, cancellation=cancellation, on_retry=cancel)
    assert "may_have_run" not in caught.value.context
    assert len(network.requests) == 1


def test_a_transport_of_the_callers_stays_open() -> None:
    network = Network()
    with agent_of(network) as agent:
        assert agent.sender == ANONYMOUS
        assert repr(agent) == "Agent('http://127.0.0.1:1', sender='2vxsx-fae')"
    assert not network.closed


def test_things_that_are_no_identity_are_refused() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Agent("http://127.0.0.1:1", identity="-----BEGIN PRIVATE KEY-----secret")
    assert caught.value.kind == "bad_identity"
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("body", [b"", b"\xa0", b"\xa1\x68root_key\x43abc", b"\xa1\x68root_key\x63abc"])
def test_a_status_without_a_root_key_is_no_reason_to_trust(body: bytes) -> None:
    network = Network([httpx.Response(200, content=body)])
    with pytest.raises(CertificateError) as caught:
        fetch_root_key("http://127.0.0.1:1", transport=network)
    assert caught.value.kind == "bad_reply"


def test_a_status_is_read_as_far_as_it_goes() -> None:
    body = encode({"replica_health_status": "starting", "impl_version": "\x1b[31m1", "certified_height": "x"})
    with agent_of(Network([httpx.Response(200, content=body)])) as agent:
        status = agent.status()
    assert (status.health, status.certified_height, status.root_key) == ("starting", None, None)
    assert "\x1b" not in status.impl_version


def test_calls_alike_at_the_same_moment_are_different_requests() -> None:
    network = Network([httpx.Response(400, text="no")])
    moment = dt.datetime(2026, 4, 8, tzinfo=dt.UTC)
    with agent_of(network, clock=lambda: moment) as agent:
        for _ in range(3):
            with pytest.raises(RejectedError):
                agent.call(CANISTER, "m", NOTHING)
    assert len({request.content for request in network.requests}) == 3
