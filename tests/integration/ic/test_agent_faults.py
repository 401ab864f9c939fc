"""Lost answers, busy networks, late answers, wrong clocks: a call runs once, and its end is known or said to be not."""

from __future__ import annotations

import contextlib
import datetime as dt
import inspect
import random
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ed25519
from ic_boundary import Boundary

from knowtation_backup._engine.cancellation import Cancellation
from knowtation_backup._engine.retrying import RetryPolicy
from knowtation_backup.errors import (
    BackupError,
    ConfigurationError,
    OperationCancelledError,
    OutcomeUnknownError,
    RejectedError,
    SourceError,
    SourceUnavailableError,
)
from knowtation_backup.ic.agent import Agent, fetch_root_key
from knowtation_backup.ic.cbor import encode
from knowtation_backup.ic.certificate import MAINNET_ROOT_KEY
from knowtation_backup.ic.delegation_chain import DelegationChain, SignedDelegation
from knowtation_backup.ic.identity import DelegatedIdentity, KeyIdentity
from knowtation_backup.ic.limits import AgentTimeouts
from knowtation_backup.model.ids import MANAGEMENT_CANISTER, Principal
from knowtation_backup.sandbox import (
    Answer,
    AnswerLater,
    ResetAfterExecution,
    ResetBeforeExecution,
    SandboxNetwork,
    Tamper,
    Truncate,
    candid,
)
from knowtation_backup.sandbox.management.context import ManagementOptions
from knowtation_backup.sandbox.management.types import METHODS
from knowtation_backup.sandbox.messages import Rejected, RequestState, RequestStatus

pytestmark = pytest.mark.sandbox

NOTHING = b"DIDL\x00\x00"
Count = Callable[[], int]


def number(reply: memoryview) -> int:
    return int.from_bytes(reply[-8:], "little")


# Lost answers


@pytest.mark.parametrize("reset", [ResetBeforeExecution(), ResetAfterExecution()])
def test_after_a_lost_answer_the_identical_envelope_is_sent(
    agent: Agent, boundary: Boundary, network: SandboxNetwork, count: Any, reset: Any
) -> None:
    network.faults.add(reset, endpoint="call", limit=1)
    assert number(agent.call(count.counter, "inc", NOTHING).reply) == 1
    assert count() == 1
    (_, first), (_, second) = boundary.requests
    assert first == second


def test_when_no_answer_gets_through_the_state_is_asked(
    agent: Agent, story: Any, network: SandboxNetwork, counter: Principal, count: Count
) -> None:
    network.faults.add(ResetAfterExecution(), endpoint="call")
    assert number(agent.call(counter, "inc", NOTHING).reply) == 1
    assert count() == 1
    assert [event["status"] for event in story.told("ic.poll")] == ["replied"]
    assert [event["kind"] for event in story.told("ic.retry")] == ["connection_lost"] * 2


def test_a_call_that_never_arrived_is_proved_not_to_have_run(
    agent: Agent, story: Any, network: SandboxNetwork, counter: Principal, count: Count
) -> None:
    network.faults.add(ResetBeforeExecution(), endpoint="call")
    with pytest.raises(SourceUnavailableError) as caught:
        agent.call(counter, "inc", NOTHING)
    assert caught.value.kind == "not_executed"
    assert "may_have_run" not in caught.value.context
    assert story.seconds > 200  # the rest of the four minutes is what the test itself takes
    assert {event["status"] for event in story.told("ic.poll")} == {"unknown"}
    network.faults.clear()
    assert count() == 0


def test_a_call_that_may_be_repeated_gives_up_without_asking(
    agent: Agent, boundary: Boundary, network: SandboxNetwork, counter: Principal
) -> None:
    network.faults.add(ResetBeforeExecution(), endpoint="call")
    with pytest.raises(SourceUnavailableError) as caught:
        agent.call(counter, "inc", NOTHING, repeatable=True)
    assert caught.value.kind == "connection_lost"
    assert caught.value.context["may_have_run"]
    assert len(boundary.requests) == 3
    assert not boundary.paths("read_state")


def test_an_envelope_that_the_network_lost_is_sent_again_while_the_state_is_asked(
    agent: Agent, boundary: Boundary, counter: Principal, count: Count
) -> None:
    lost: list[int] = []

    class Losing(httpx.BaseTransport):
        """Accepts the first call and forgets it."""

        def __init__(self, inner: httpx.BaseTransport) -> None:
            self._inner = inner

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.path.endswith("/call") and not lost:
                lost.append(1)
                return httpx.Response(202)
            return self._inner.handle_request(request)

    boundary.inner = Losing(boundary.inner)
    assert number(agent.call(counter, "inc", NOTHING).reply) == 1
    assert count() == 1
    assert len({body for path, body in boundary.requests if path.endswith("/call")}) == 1


def test_an_unsigned_rejection_after_a_lost_answer_is_not_believed(
    agent: Agent, boundary: Boundary, network: SandboxNetwork, counter: Principal, count: Count
) -> None:
    network.faults.add(ResetAfterExecution(), endpoint="call", limit=1)

    def change(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if not request.url.path.endswith("/call"):
            return response
        return httpx.Response(400, text="Canister is stopped, nothing was executed, believe me")

    boundary.change = change
    assert number(agent.call(counter, "inc", NOTHING).reply) == 1
    assert count() == 1


def test_an_outcome_that_cannot_be_read_is_unknown(
    agent: Agent, boundary: Boundary, network: SandboxNetwork, counter: Principal
) -> None:
    network.faults.add(ResetAfterExecution(), endpoint="call")
    network.faults.add(Answer(status=503), endpoint="read_state")
    with pytest.raises(OutcomeUnknownError) as caught:
        agent.call(counter, "inc", NOTHING)
    assert caught.value.kind == "outcome_unknown"
    assert caught.value.context["may_have_run"]
    assert len(caught.value.context["request_id"]) == 64
    assert len(boundary.requests) < 60


def test_a_reply_that_the_network_dropped_leaves_the_outcome_unknown(
    agent: Agent, network: SandboxNetwork, counter: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    network.faults.add(ResetAfterExecution(), endpoint="call")
    known = network.replica.request_status

    def dropped(request_id: bytes) -> Any:
        status = known(request_id)
        return status and attrs.evolve(status, state=RequestState.DONE, answer=None)

    monkeypatch.setattr(network.replica, "request_status", dropped)
    with pytest.raises(OutcomeUnknownError) as caught:
        agent.call(counter, "inc", NOTHING)
    assert caught.value.kind == "reply_dropped"


def test_what_the_network_may_have_forgotten_is_not_said_never_to_have_run(  # noqa: PLR0917 - fixtures
    agent: Agent, boundary: Boundary, story: Any, network: SandboxNetwork, counter: Principal, monkeypatch: Any
) -> None:
    network.faults.add(ResetAfterExecution(), endpoint="call")

    def change(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return httpx.Response(503) if request.url.path.endswith("/read_state") and story.seconds < 600 else response

    boundary.change = change
    monkeypatch.setattr(network.replica, "request_status", lambda _request_id: None)
    with pytest.raises(OutcomeUnknownError) as caught:
        agent.call(counter, "inc", NOTHING, deadline_seconds=2000)
    assert caught.value.context["may_have_run"]
    assert 600 < story.seconds < 1000


def test_an_unsigned_word_of_a_dropped_call_brings_no_fresh_envelope(
    agent: Agent, boundary: Boundary, counter: Principal, count: Count
) -> None:
    fields = {"status": "non_replicated_rejection", "reject_code": 2, "reject_message": "", "error_code": "IC0202"}
    boundary.change = lambda _request, _response: httpx.Response(200, content=encode(fields))
    with pytest.raises(RejectedError) as caught:
        agent.call(counter, "inc", NOTHING)
    assert (caught.value.kind, caught.value.certified) == ("message_timed_out", False)
    assert len({body for _, body in boundary.requests}) == 1
    assert count() == 1


# Late answers


def test_a_late_answer_is_polled_for(
    agent: Agent, story: Any, network: SandboxNetwork, counter: Principal, count: Count
) -> None:
    network.faults.add(AnswerLater(5.0), endpoint="call", limit=1)
    assert number(agent.call(counter, "inc", NOTHING).reply) == 1
    assert count() == 1
    statuses = [event["status"] for event in story.told("ic.poll")]
    assert statuses[-1] == "replied"
    assert set(statuses[:-1]) == {"processing"}
    assert story.pauses[0] == 0.5
    assert max(story.pauses) <= 2.0


def test_an_answer_later_than_the_deadline_leaves_the_outcome_unknown(
    agent: Agent, story: Any, network: SandboxNetwork, counter: Principal
) -> None:
    network.faults.add(AnswerLater(10_000.0), endpoint="call")
    with pytest.raises(OutcomeUnknownError) as caught:
        agent.call(counter, "inc", NOTHING, deadline_seconds=60)
    assert caught.value.kind == "outcome_unknown"
    assert story.seconds <= 60


def test_a_late_answer_to_a_call_that_may_be_repeated_is_a_timeout(
    agent: Agent, network: SandboxNetwork, counter: Principal
) -> None:
    network.faults.add(AnswerLater(10_000.0), endpoint="call")
    with pytest.raises(SourceUnavailableError) as caught:
        agent.call(counter, "inc", NOTHING, repeatable=True, deadline_seconds=60)
    assert caught.value.kind == "timeout"


def test_older_networks_are_polled(agent: Agent, boundary: Boundary, story: Any, counter: Principal) -> None:
    inner = boundary.inner

    class Old(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if "/api/v2/" not in request.url.path:
                return httpx.Response(404, text="Not Found")
            return inner.handle_request(request)

    boundary.inner = Old()
    assert number(agent.call(counter, "inc", NOTHING).reply) == 1
    assert [(event["kind"], event["version"]) for event in story.told("ic.endpoint")] == [
        ("call", "v3"),
        ("call", "v2"),
        ("read_state", "v2"),
    ]
    boundary.requests.clear()
    assert number(agent.call(counter, "inc", NOTHING).reply) == 2
    assert all("/api/v2/" in path for path, _ in boundary.requests)
    assert agent.query(counter, "get", NOTHING)[-8:] == (2).to_bytes(8, "little")
    with pytest.raises(RejectedError) as caught:
        agent.call(Principal(b"\x00" * 7 + b"\x77\x01\x01"), "inc", NOTHING)
    assert (caught.value.kind, caught.value.certified) == ("canister_not_found", False)


# Busy networks


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_network_is_waited_for_with_growing_delays(
    agent: Agent, boundary: Boundary, story: Any, count: Any, status: int
) -> None:
    count.network.faults.add(Answer(status=status), endpoint="call", limit=6)
    told: list[BackupError] = []
    assert number(agent.call(count.counter, "inc", NOTHING, on_retry=told.append).reply) == 1
    assert count() == 1
    assert [error.kind for error in told] == ["overloaded"] * 6
    assert story.pauses == [0.5, 1, 2, 4, 8, 16]
    assert len({body for _, body in boundary.requests}) == 1


def test_retry_after_is_obeyed(agent: Agent, story: Any, network: SandboxNetwork, counter: Principal) -> None:
    network.faults.add(Answer(status=429, retry_after_seconds=7), endpoint="call", limit=1)
    agent.call(counter, "inc", NOTHING)
    assert story.pauses == [7]


def test_a_network_that_stays_busy_ends_the_call_before_its_deadline(
    agent: Agent, story: Any, network: SandboxNetwork, counter: Principal, count: Count
) -> None:
    network.faults.add(Answer(status=503))
    with pytest.raises(SourceUnavailableError) as caught:
        agent.call(counter, "inc", NOTHING, deadline_seconds=100)
    assert caught.value.kind == "overloaded"
    assert "may_have_run" not in caught.value.context
    assert story.seconds < 100
    with pytest.raises(SourceUnavailableError):
        agent.query(counter, "get", NOTHING)
    with pytest.raises(SourceUnavailableError):
        agent.read_state(counter, [(b"time",)])
    with pytest.raises(SourceUnavailableError):
        agent.status()
    network.faults.clear()
    assert count() == 0


@pytest.mark.parametrize("repeatable", [False, True])
def test_a_network_that_is_busy_for_longer_than_an_envelope_lives_gets_a_fresh_one(
    agent: Agent, boundary: Boundary, network: SandboxNetwork, counter: Principal, count: Count, *, repeatable: bool
) -> None:
    network.faults.add(Answer(status=429), endpoint="call", limit=14)
    reply = agent.call(counter, "inc", NOTHING, repeatable=repeatable, deadline_seconds=2000)
    assert number(reply.reply) == 1
    assert count() == 1
    assert len({body for path, body in boundary.requests if path.endswith("/call")}) == 2
    assert bool(boundary.paths("read_state")) != repeatable  # that the first one never ran had to be proved


def test_waiting_for_a_busy_network_does_not_pile_up(agent: Agent, network: SandboxNetwork, counter: Principal) -> None:
    network.faults.add(Answer(status=429), endpoint="call", limit=40)
    depths: list[int] = []
    agent.call(counter, "inc", NOTHING, deadline_seconds=2000, on_retry=lambda _: depths.append(len(inspect.stack(0))))
    assert len(set(depths)) == 1


def test_a_call_that_was_only_ever_refused_is_not_said_to_be_unknown(
    agent: Agent, story: Any, network: SandboxNetwork, counter: Principal
) -> None:
    network.faults.add(Answer(status=429))
    with pytest.raises(SourceUnavailableError) as caught:
        agent.call(counter, "inc", NOTHING, deadline_seconds=600)
    assert caught.value.kind == "overloaded"
    assert "may_have_run" not in caught.value.context
    assert story.seconds > 300


@pytest.mark.parametrize("status", [500, 502, 408])
def test_other_failures_of_nodes_are_repeated_a_few_times(
    agent: Agent, boundary: Boundary, network: SandboxNetwork, counter: Principal, status: int
) -> None:
    network.faults.add(Answer(status=status), endpoint="call")
    with pytest.raises(SourceUnavailableError) as caught:
        agent.call(counter, "inc", NOTHING, repeatable=True)
    assert caught.value.kind == "network_unavailable"
    assert caught.value.context.get("may_have_run", False) == (status >= 500)
    assert len(boundary.requests) == 3


@pytest.mark.parametrize(("status", "cause"), [(500, ""), (502, ""), (504, ""), (503, "replica_error")])
def test_a_gateway_that_lost_its_node_may_have_passed_the_call_on(  # noqa: PLR0917 - fixtures
    agent: Agent, boundary: Boundary, counter: Principal, count: Count, status: int, cause: str
) -> None:
    def change(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if not request.url.path.endswith("/call"):
            return response
        return httpx.Response(status, headers={"x-ic-error-cause": cause})

    boundary.change = change
    assert number(agent.call(counter, "inc", NOTHING).reply) == 1
    assert count() == 1
    boundary.change = None
    boundary.inner = _Swallowing(boundary.inner, status, cause)
    with pytest.raises(SourceUnavailableError) as caught:
        agent.call(counter, "inc", NOTHING)
    assert caught.value.kind == "not_executed"
    assert count() == 1


@attrs.frozen
class _Swallowing(httpx.BaseTransport):
    """Answers calls itself, as a gateway that could not reach its node."""

    inner: httpx.BaseTransport
    status: int
    cause: str

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/call"):
            return httpx.Response(self.status, headers={"x-ic-error-cause": self.cause})
        return self.inner.handle_request(request)


# Rejections


def test_certified_rejections_are_final(agent: Agent, boundary: Boundary, counter: Principal) -> None:
    with pytest.raises(RejectedError) as caught:
        agent.call(counter, "boom", NOTHING)
    error = caught.value
    assert (error.kind, error.certified, error.reject_code) == ("canister_trapped", True, 5)
    assert error.context["error_code"] in {"IC0502", "IC0503"}
    assert "on purpose" in error.message
    assert "may_have_run" not in error.context
    with pytest.raises(RejectedError) as caught:
        agent.call(counter, "refuse", NOTHING)
    assert (caught.value.kind, caught.value.context["error_code"]) == ("canister_rejected", "IC0406")
    assert len(boundary.requests) == 2


def test_rejections_before_consensus_are_told_apart(agent: Agent, boundary: Boundary) -> None:
    with pytest.raises(RejectedError) as caught:
        agent.call(Principal(b"\x00" * 7 + b"\x77\x01\x01"), "inc", NOTHING)
    error = caught.value
    assert (error.kind, error.certified, error.context["error_code"]) == ("canister_not_found", False, "IC0301")
    assert len(boundary.requests) == 1


def manage(agent: Agent, method: str, canister: Principal, **argument: Any) -> Any:
    types = METHODS[method]
    fields = {"canister_id": canister.raw, **argument}
    assert types.argument is not None
    arg = candid.encode([types.argument], [fields])
    reply = agent.call(MANAGEMENT_CANISTER, method, arg, effective_canister_id=canister)
    values = candid.decode(bytes(reply.reply), types.results)
    return values[0] if values else None


@pytest.fixture
def slow(counter_wasm: bytes) -> Iterator[tuple[SandboxNetwork, Principal]]:
    """A network that limits how fast its state is written, with a canister of the anonymous user's."""
    options = ManagementOptions(heap_delta_limit_bytes=1000)
    with SandboxNetwork(tick_seconds=None, management=options) as network:
        yield network, Principal(network.create_canister(counter_wasm, controllers=(b"\x04",)))


@pytest.mark.parametrize(
    ("method", "code", "extra"),
    [
        ("take_canister_snapshot", "IC0210", {}),
        ("upload_chunk", "IC0504", {"chunk": b"abc"}),
    ],
)
def test_limits_of_pace_are_waited_out_with_fresh_envelopes(
    slow: tuple[SandboxNetwork, Principal], story: Any, method: str, code: str, extra: dict[str, Any]
) -> None:
    network, canister = slow
    story.network = network
    boundary = Boundary(network.transport())
    told: list[BackupError] = []
    with Agent(
        "http://127.0.0.1:1",
        root_key=network.root_key,
        transport=boundary,
        observer=story.events.append,
        sleep=story.sleep,
        clock=story.clock,
        monotonic=story.monotonic,
    ) as patient:
        network.canisters[canister.raw].heap_delta_debit = 10**9
        types = METHODS[method]
        assert types.argument is not None
        arg = candid.encode([types.argument], [{"canister_id": canister.raw, **extra}])
        patient.call(
            MANAGEMENT_CANISTER,
            method,
            arg,
            effective_canister_id=canister,
            deadline_seconds=3600,
            on_retry=told.append,
        )
    assert told
    assert {(error.kind, error.context["error_code"], error.context["certified"]) for error in told} == {
        ("rate_limited", code, True)
    }
    assert len({body for _, body in boundary.requests}) == len(told) + 1


def test_a_limit_of_pace_that_lasts_is_a_rejection(slow: tuple[SandboxNetwork, Principal], story: Any) -> None:
    network, canister = slow
    story.network = network
    network.canisters[canister.raw].heap_delta_debit = 10**15
    with (
        Agent(
            "http://127.0.0.1:1",
            root_key=network.root_key,
            transport=network.transport(),
            sleep=story.sleep,
            clock=story.clock,
            monotonic=story.monotonic,
        ) as patient,
        pytest.raises(RejectedError) as caught,
    ):
        manage(patient, "take_canister_snapshot", canister)
    assert (caught.value.kind, caught.value.certified) == ("rate_limited", True)
    assert story.seconds > 180
    assert "may_have_run" not in caught.value.context


def test_a_message_that_the_network_certifies_to_have_dropped_is_sent_afresh(
    agent: Agent, boundary: Boundary, network: SandboxNetwork, counter: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = network.replica.call
    dropped: list[Any] = []

    def drop_first(message: Any) -> Any:
        if dropped:
            return call(message)
        dropped.append(message)
        refusal = Rejected("IC0202", "Ingress message timed out waiting to start executing.")
        return RequestStatus(
            state=RequestState.REJECTED, sender=message.sender, canister_id=message.canister_id, answer=refusal
        )

    monkeypatch.setattr(network.replica, "call", drop_first)
    assert number(agent.call(counter, "inc", NOTHING).reply) == 1
    assert len({body for _, body in boundary.requests}) == 2


# Clocks, addresses, keys


@pytest.mark.parametrize(("seconds", "says"), [(-600, r"about (600|599) s behind"), (600, r"about 600 s ahead of")])
def test_a_wrong_clock_is_named(
    network: SandboxNetwork, boundary: Boundary, counter: Principal, seconds: float, says: str
) -> None:
    def clock() -> dt.datetime:
        return dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)

    with (
        Agent("http://127.0.0.1:1", root_key=network.root_key, transport=boundary, clock=clock) as agent,
        pytest.raises(RejectedError) as caught,
    ):
        agent.call(counter, "inc", NOTHING)
    assert caught.value.kind == "clock_differs"
    assert re.search(says, caught.value.message)
    assert len(boundary.requests) == 1


def test_an_untrusted_tls_certificate_is_refused_at_once(network: SandboxNetwork, counter: Principal) -> None:
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(serving)
    with network.serve(ssl_context=serving) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        with Agent(url, root_key=network.root_key) as agent, pytest.raises(SourceError) as caught:
            agent.call(counter, "inc", NOTHING)
    assert (type(caught.value), caught.value.kind) == (SourceError, "tls")
    assert "may_have_run" not in caught.value.context


def test_a_trusted_tls_certificate_is_accepted(network: SandboxNetwork, counter: Principal) -> None:
    authority = trustme.CA()
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(serving)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with network.serve(ssl_context=serving) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        with Agent(url, root_key=network.root_key, ssl_context=trusting) as agent:
            assert number(agent.call(counter, "inc", NOTHING).reply) == 1
            blob = b"DIDL\x01\x6d\x7b\x01\x00\x80\x89\x7a" + bytes(2_000_000)
            assert bytes(agent.call(counter, "echo", blob).reply) == blob


def test_a_closed_port_is_unreachable(story: Any, counter: Principal) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with (
            Agent(url, retry=RetryPolicy(attempts=3), sleep=story.sleep) as agent,
            pytest.raises(SourceUnavailableError) as caught,
        ):
            agent.call(counter, "inc", NOTHING)
    assert caught.value.kind == "unreachable"
    assert "may_have_run" not in caught.value.context
    assert len(story.pauses) == 2


def test_the_root_key_of_a_local_network_can_be_fetched_and_that_of_mainnet_not(network: SandboxNetwork) -> None:
    assert fetch_root_key("http://127.0.0.1:1", transport=network.transport()) == network.root_key
    for host in ("icp-api.io", "ic0.app", "icp0.io", "x.raw.icp0.io"):
        with pytest.raises(ConfigurationError) as caught:
            fetch_root_key(f"https://{host}", transport=network.transport())
        assert caught.value.kind == "known_root_key"


def test_the_status_of_a_node_is_told(agent: Agent, network: SandboxNetwork) -> None:
    status = agent.status()
    assert (status.health, status.root_key) == ("healthy", network.root_key)
    assert status.impl_version


def test_root_keys_are_given_as_bytes_or_digits(network: SandboxNetwork) -> None:
    with Agent("http://127.0.0.1:1", root_key=network.root_key.hex(), transport=network.transport()) as agent:
        assert agent.root_key == network.root_key
    for wrong in ("", "zz", network.root_key[:-1], bytes(133), MAINNET_ROOT_KEY.hex() + "00"):
        with pytest.raises(ConfigurationError) as caught:
            Agent("http://127.0.0.1:1", root_key=wrong)
        assert caught.value.kind == "bad_root_key"


# Cancellation, threads, leftovers


@contextlib.contextmanager
def silent_server() -> Iterator[tuple[str, threading.Event]]:
    """Accepts connections and never answers; the event is set once a request came."""
    asked = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        held: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    held.append(connection)
                    connection.recv(1)
                    asked.set()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", asked
        finally:
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in held:
                connection.close()


def test_a_call_that_waits_for_an_answer_is_cancelled(counter: Principal) -> None:
    cancellation = Cancellation()
    with silent_server() as (url, asked), Agent(url) as agent, ThreadPoolExecutor(1) as pool:
        call = pool.submit(agent.call, counter, "inc", NOTHING, cancellation=cancellation)
        assert asked.wait(30)
        cancellation.cancel()
        error = call.exception(30)
    assert isinstance(error, OperationCancelledError)
    assert error.context["may_have_run"]


def test_a_call_that_polls_is_cancelled(network: SandboxNetwork, boundary: Boundary, counter: Principal) -> None:
    network.faults.add(AnswerLater(1000), endpoint="call")
    cancellation = Cancellation()

    def stop(event: Any) -> None:
        if event.name == "ic.poll":
            cancellation.cancel()

    with (
        Agent("http://127.0.0.1:1", root_key=network.root_key, transport=boundary, observer=stop) as agent,
        pytest.raises(OperationCancelledError) as caught,
    ):
        agent.call(counter, "inc", NOTHING, cancellation=cancellation)
    assert caught.value.context["may_have_run"]


def test_a_cancelled_operation_sends_nothing(agent: Agent, boundary: Boundary, counter: Principal) -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    for ask in (
        lambda: agent.call(counter, "inc", NOTHING, cancellation=cancellation),
        lambda: agent.query(counter, "get", NOTHING, cancellation=cancellation),
        lambda: agent.read_state(counter, [(b"time",)], cancellation=cancellation),
    ):
        with pytest.raises(OperationCancelledError) as caught:
            ask()
        assert "may_have_run" not in caught.value.context
    assert not boundary.requests


def open_sockets() -> set[str]:
    names = set()
    descriptors = Path("/proc/self/fd")  # elsewhere than on Linux, nothing is seen
    for entry in descriptors.iterdir() if descriptors.exists() else ():
        with contextlib.suppress(OSError):
            names.add(str(entry.readlink()))
    return {name for name in names if name.startswith("socket:")}


def test_many_threads_share_one_agent_and_leave_nothing_behind(
    network: SandboxNetwork, counter: Principal, count: Count
) -> None:
    network.faults.add(ResetAfterExecution(), endpoint="call", every=7)
    network.faults.add(ResetBeforeExecution(), endpoint="call", every=11)
    network.faults.add(AnswerLater(0.1), endpoint="call", every=13)
    sockets, threads = open_sockets(), threading.active_count()
    retry = RetryPolicy(first_delay_seconds=0.01, attempts=6)
    with network.serve() as server, Agent(server.url, root_key=network.root_key, retry=retry) as agent:

        def work(_number: int) -> int:
            answers = [number(agent.call(counter, "inc", NOTHING).reply) for _ in range(4)]
            agent.query(counter, "get", NOTHING)
            return len(answers)

        with ThreadPoolExecutor(32) as pool:
            done = sum(pool.map(work, range(32)))
    network.faults.clear()
    assert done == 128
    assert count() == 128
    assert threading.active_count() <= threads
    assert open_sockets() <= sockets


def test_secrets_in_arguments_do_not_come_back_in_errors(agent: Agent, boundary: Boundary, counter: Principal) -> None:
    secret = "the operator's export secret"
    boundary.change = lambda _request, _response: httpx.Response(400, text=f"cannot use {secret} here")
    with pytest.raises(RejectedError) as caught:
        agent.call(counter, "inc", b"DIDL\x00\x01\x71\x1c" + secret.encode())
    assert secret not in str(caught.value) + repr(caught.value.context)


def test_secrets_in_arguments_do_not_come_back_in_errors_of_the_state(
    agent: Agent, boundary: Boundary, counter: Principal
) -> None:
    secret = "the operator's export secret"

    def change(request: httpx.Request, _response: httpx.Response) -> httpx.Response:
        taken = request.url.path.endswith("/call")
        return httpx.Response(202) if taken else httpx.Response(400, text=f"cannot use {secret} here")

    boundary.change = change
    with pytest.raises(OutcomeUnknownError) as caught:
        agent.call(counter, "inc", b"DIDL\x00\x01\x71\x1c" + secret.encode())
    assert secret not in str(caught.value) + repr(caught.value.context) + str(caught.value.__cause__)


# Identities


def test_a_key_holder_is_known_to_the_canister_and_reads_only_its_own_requests(
    agent: Agent, boundary: Boundary, network: SandboxNetwork, counter: Principal, story: Any
) -> None:
    identity = KeyIdentity(ed25519.Ed25519PrivateKey.generate())
    with Agent(
        "http://127.0.0.1:1",
        identity=identity,
        root_key=network.root_key,
        transport=boundary,
        sleep=story.sleep,
        clock=story.clock,
        monotonic=story.monotonic,
    ) as signing:
        assert signing.sender == identity.sender
        network.faults.add(AnswerLater(1.0), endpoint="call", limit=1)
        reply = signing.call(counter, "inc", NOTHING)
        assert number(reply.reply) == 1
        assert reply.content["sender"] == identity.sender.raw
        assert signing.query(counter, "get", NOTHING)[-8:] == (1).to_bytes(8, "little")
    with pytest.raises(RejectedError) as caught:
        agent.read_state(counter, [(b"request_status", reply.request_id)])
    assert caught.value.kind == "forbidden"


@pytest.mark.parametrize(
    ("limits", "kind"),
    [
        ({"expires_at_ns": 1}, "delegation_expired"),
        ({"permissions": "queries"}, "delegation_permissions"),
        ({"targets": (MANAGEMENT_CANISTER,)}, "delegation_target"),
    ],
)
def test_what_a_delegation_does_not_allow_is_refused_before_anything_is_sent(
    boundary: Boundary, counter: Principal, limits: dict[str, Any], kind: str
) -> None:
    owner, session = (KeyIdentity(ed25519.Ed25519PrivateKey.generate()) for _ in range(2))
    assert owner.public_key is not None
    assert session.public_key is not None
    fields = {"expires_at_ns": (1 << 64) - 1, **limits}
    link = SignedDelegation(public_key=session.public_key, signature=bytes(64), **fields)
    chain = DelegationChain(public_key=owner.public_key, delegations=(link,))
    with (
        Agent("http://127.0.0.1:1", identity=DelegatedIdentity(session, chain), transport=boundary) as agent,
        pytest.raises(ConfigurationError) as caught,
    ):
        agent.call(counter, "inc", NOTHING)
    assert caught.value.kind == kind
    assert not boundary.requests


# Everything at once


@pytest.mark.parametrize("seed", range(40))
def test_whatever_goes_wrong_a_call_runs_once_at_most_and_its_end_is_told_truly(
    agent: Agent, count: Any, seed: int
) -> None:
    network, chance = count.network, random.Random(seed)  # noqa: S311 - the same cases in every run
    kinds: list[Any] = [
        ResetBeforeExecution(),
        ResetAfterExecution(),
        Answer(status=429),
        Answer(status=503, retry_after_seconds=20),
        Answer(status=500),
        AnswerLater(chance.uniform(1, 400)),
        Truncate(0.5),
        Tamper("middle"),
    ]
    for action in chance.sample(kinds, chance.randint(1, 4)):
        endpoint = chance.choice(["call", "read_state", None])
        network.faults.add(
            action,
            endpoint="call" if isinstance(action, AnswerLater) else endpoint,
            probability=chance.choice([0.3, 0.6, 1.0]),
            limit=chance.choice([None, 1, 5, 30]),
        )
    try:
        reply = agent.call(count.counter, "inc", NOTHING)
    except BackupError as error:
        failure: BackupError | None = error
    else:
        failure = None
        assert number(reply.reply) == 1
    network.faults.clear()
    ran = count()
    assert ran in {0, 1}
    if failure is None:
        assert ran == 1
    elif not failure.context.get("may_have_run"):
        assert ran == 0, failure
    if failure is not None and failure.kind == "not_executed":
        assert ran == 0


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_connection_that_is_not_made_ends_in_time_or_when_cancelled(scheme: str, counter: Principal) -> None:
    # Accepts no connections, and no handshakes either: its queue is full, or it never answers.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening, contextlib.ExitStack() as filling:
        port = listening.getsockname()[1]
        if scheme == "http":
            for _ in range(4):
                filler = filling.enter_context(socket.socket())
                filler.settimeout(0)
                filler.connect_ex(("127.0.0.1", port))
        timeouts = AgentTimeouts(connect_seconds=0.3)
        with Agent(f"{scheme}://127.0.0.1:{port}", timeouts=timeouts, retry=RetryPolicy(attempts=1)) as agent:
            with pytest.raises(SourceUnavailableError) as caught:
                agent.call(counter, "inc", NOTHING)
            assert caught.value.kind == "unreachable"
        cancellation = Cancellation()
        threading.Timer(0.1, cancellation.cancel).start()
        with (
            Agent(f"{scheme}://127.0.0.1:{port}", retry=RetryPolicy(attempts=1)) as agent,
            pytest.raises(OperationCancelledError),
        ):
            agent.call(counter, "inc", NOTHING, cancellation=cancellation)


def test_a_reply_is_a_view_that_nobody_can_change(network: SandboxNetwork, counter: Principal) -> None:
    with network.serve() as server, Agent(server.url, root_key=network.root_key) as agent:
        reply = agent.call(counter, "echo", NOTHING + bytes(100_000)).reply
    assert reply.readonly
    assert reply.nbytes == 100_006
    assert len(reply.obj) > reply.nbytes  # type: ignore[arg-type] # it is part of the answer, not a copy
