"""
A boundary node that cheats in every way it can: each is noticed, has a name, and yields no data.

What it cannot do unnoticed is change data. What it always can do is refuse service: a rejection that no subnet signed
is told apart by ``certified``.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cbor2
import httpx
import pytest
from ic_boundary import Boundary, Change

from knowtation_backup._engine.retrying import RetryPolicy
from knowtation_backup.errors import (
    BackupError,
    CertificateError,
    OutcomeUnknownError,
    RejectedError,
    SourceError,
    SourceUnavailableError,
)
from knowtation_backup.ic.agent import Agent
from knowtation_backup.ic.certificate import Certificate
from knowtation_backup.ic.hash_tree import Found
from knowtation_backup.ic.limits import AgentLimits
from knowtation_backup.ic.management import ManagementCanister
from knowtation_backup.ic.wire import IC_RESPONSE, content_hash, request_id
from knowtation_backup.model.ids import Principal
from knowtation_backup.sandbox import ResetAfterExecution, SandboxNetwork, StaleCertificate, Truncate
from knowtation_backup.sandbox.protocol.crypto import NodeKey

pytestmark = pytest.mark.sandbox

TAG = b"\xd9\xd9\xf7"
NOTHING = b"DIDL\x00\x00"
OUTSIDE = Principal(b"\xff" * 9 + b"\x01")
"""Beyond the last canister of the sandbox's subnet."""


def answer(response: httpx.Response, body: bytes, **headers: str) -> httpx.Response:
    return httpx.Response(
        response.status_code, headers={"content-type": "application/cbor", **headers}, stream=httpx.ByteStream(body)
    )


def changed(change: Callable[[dict[str, Any]], object], *, only: str = "call") -> Any:
    """Return a change of the outer map of answers to one kind of request."""

    def apply(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if not request.url.path.endswith(f"/{only}"):
            return response
        fields = dict(cbor2.loads(response.content[3:]))
        change(fields)
        return answer(response, TAG + cbor2.dumps(fields))

    return apply


def certificate_changed(change: Callable[[dict[str, Any]], object], *, only: str = "call") -> Any:
    """Return a change of the certificate in answers."""

    def apply(fields: dict[str, Any]) -> None:
        certificate = dict(cbor2.loads(fields["certificate"][3:]))
        change(certificate)
        fields["certificate"] = TAG + cbor2.dumps(certificate)

    return changed(apply, only=only)


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def refused(agent: Agent, counter: Principal, method: str = "inc") -> BackupError:
    with pytest.raises(BackupError) as caught:
        agent.call(counter, method, NOTHING)
    return caught.value


def test_an_honest_boundary_is_believed(agent: Agent, counter: Principal) -> None:
    first = agent.call(counter, "inc", NOTHING)
    assert bytes(first.reply)[-8:] == (1).to_bytes(8, "little")
    assert agent.query(counter, "get", NOTHING)[-8:] == (1).to_bytes(8, "little")
    path = (b"canister", counter.raw, b"module_hash")
    assert isinstance(agent.read_state(counter, [path]).lookup(*path), Found)


@pytest.mark.parametrize("share", [n / 24 for n in range(24)])
def test_a_flipped_bit_anywhere_in_an_answer_is_refused(
    agent: Agent, boundary: Boundary, counter: Principal, share: float
) -> None:
    boundary.change = lambda _request, response: answer(
        response, flipped(response.content, int(len(response.content) * share))
    )
    assert isinstance(refused(agent, counter), CertificateError)


def test_a_flipped_bit_in_the_reply_breaks_the_signature(agent: Agent, boundary: Boundary, counter: Principal) -> None:
    def change(_request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return answer(response, flipped(response.content, response.content.index(b"DIDL\x00\x01\x78") + 8))

    boundary.change = change
    error = refused(agent, counter)
    assert (type(error), error.kind) == (CertificateError, "certificate_signature")
    assert error.context["may_have_run"]


@pytest.mark.parametrize("first", ["inc", "echo"])
def test_a_replayed_reply_is_refused(agent: Agent, boundary: Boundary, counter: Principal, first: str) -> None:
    kept: list[bytes] = []

    def replay(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path.endswith("/call"):
            kept.append(response.content)
        return answer(response, kept[0])

    boundary.change = replay
    agent.call(counter, first, NOTHING)
    error = refused(agent, counter)
    assert (type(error), error.kind) == (CertificateError, "certificate_path")


def test_replies_swapped_between_two_calls_are_refused(agent: Agent, boundary: Boundary, counter: Principal) -> None:
    both = threading.Barrier(2)
    bodies: dict[int, bytes] = {}

    def swap(_request: httpx.Request, response: httpx.Response) -> httpx.Response:
        bodies[threading.get_ident()] = response.content
        both.wait(10)
        other = next(body for thread, body in bodies.items() if thread != threading.get_ident())
        both.wait(10)
        return answer(response, other)

    boundary.change = swap
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(agent.call, counter, "echo", bytes([n]) * 1000) for n in range(2)]
    assert [(type(call.exception()), call.exception().kind) for call in calls] == [  # type: ignore[union-attr]
        (CertificateError, "certificate_path"),
        (CertificateError, "certificate_path"),
    ]


def test_the_certificate_of_another_canister_does_not_answer(
    agent: Agent, boundary: Boundary, network: SandboxNetwork, counter: Principal, counter_wasm: bytes
) -> None:
    other = Principal(network.create_canister(counter_wasm))
    management = ManagementCanister(agent)
    kept: dict[str, bytes] = {}

    def replay(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return answer(response, kept.setdefault(request.url.path.rpartition("/")[2], response.content))

    boundary.change = replay
    management.public_info(other)
    agent.call(other, "inc", NOTHING)
    with pytest.raises(CertificateError) as caught:
        management.public_info(counter)
    assert caught.value.kind == "certificate_path"
    assert refused(agent, counter).kind == "certificate_path"


def test_a_canister_outside_the_ranges_of_the_subnet_is_refused(
    agent: Agent, boundary: Boundary, counter: Principal
) -> None:
    boundary.inner = _Redirecting(boundary.inner, OUTSIDE, counter)
    with pytest.raises(CertificateError) as caught:
        agent.read_state(OUTSIDE, [(b"time",)])
    assert caught.value.kind == "certificate_range"


def test_a_query_answer_of_a_node_of_another_subnet_is_refused(
    agent: Agent, boundary: Boundary, network: SandboxNetwork, counter: Principal
) -> None:
    sign: Change = signed_by(network._certifier.node)

    def change(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        response.status_code = 200
        return sign(request, response)

    boundary.inner = _Redirecting(boundary.inner, OUTSIDE, counter)
    boundary.change = change
    assert agent.query(counter, "get", NOTHING) == b"DIDL\x00\x00"  # of this subnet's canisters it may speak
    with pytest.raises(CertificateError) as caught:
        agent.query(OUTSIDE, "get", NOTHING)
    assert caught.value.kind == "certificate_range"


def test_the_call_of_a_canister_outside_the_ranges_of_the_subnet_is_refused(
    agent: Agent, boundary: Boundary, counter: Principal
) -> None:
    kept: list[bytes] = []

    def replay(_request: httpx.Request, response: httpx.Response) -> httpx.Response:
        kept.append(response.content)
        return httpx.Response(200, content=kept[0])

    boundary.change = replay
    agent.call(counter, "inc", NOTHING)
    assert refused(agent, OUTSIDE).kind == "certificate_range"


class _Redirecting(httpx.BaseTransport):
    """Asks for *other* whenever it is asked for *wanted*."""

    def __init__(self, inner: httpx.BaseTransport, wanted: Principal, other: Principal) -> None:
        self._inner, self._wanted, self._other = inner, str(wanted), str(other)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = str(request.url).replace(self._wanted, self._other)
        return self._inner.handle_request(
            httpx.Request(request.method, url, content=request.read(), headers={"content-type": "application/cbor"})
        )


@pytest.fixture
def elsewhere(counter_wasm: bytes) -> Iterator[SandboxNetwork]:
    """Another network with a canister of the same id."""
    with SandboxNetwork(key_seed=b"elsewhere", tick_seconds=None) as running:
        running.create_canister(counter_wasm)
        yield running


def test_the_certificate_of_another_network_is_refused(
    agent: Agent, boundary: Boundary, counter: Principal, elsewhere: SandboxNetwork
) -> None:
    boundary.inner = elsewhere.transport()
    error = refused(agent, counter)
    assert (type(error), error.kind) == (CertificateError, "certificate_delegation")
    for ask in (
        lambda: agent.query(counter, "get", NOTHING),
        lambda: agent.read_state(counter, [(b"time",)]),
    ):
        with pytest.raises(CertificateError) as caught:
            ask()
        assert caught.value.kind == "certificate_delegation"


def test_a_local_network_needs_its_own_root_key(boundary: Boundary, counter: Principal) -> None:
    with Agent("http://127.0.0.1:1", transport=boundary) as agent:
        error = refused(agent, counter)
    assert isinstance(error, CertificateError)
    assert "root_key=" in error.hint


def test_the_delegation_of_another_network_is_refused(
    agent: Agent, boundary: Boundary, network: SandboxNetwork, counter: Principal, elsewhere: SandboxNetwork
) -> None:
    boundary.inner = elsewhere.transport()
    kept: list[Any] = []
    boundary.change = certificate_changed(lambda certificate: kept.append(certificate["delegation"]))
    refused(agent, counter)
    boundary.inner = network.transport()
    boundary.change = certificate_changed(lambda certificate: certificate.update(delegation=kept[0]))
    error = refused(agent, counter)
    assert (type(error), error.kind) == (CertificateError, "certificate_delegation")


def test_a_missing_delegation_is_refused(agent: Agent, boundary: Boundary, counter: Principal) -> None:
    boundary.change = certificate_changed(lambda certificate: certificate.pop("delegation"))
    error = refused(agent, counter)
    assert (type(error), error.kind) == (CertificateError, "certificate_signature")


def test_an_old_certificate_is_refused(agent: Agent, network: SandboxNetwork, counter: Principal) -> None:
    network.faults.add(StaleCertificate(3600.0))
    error = refused(agent, counter)
    assert (type(error), error.kind) == (CertificateError, "certificate_time")
    assert error.context["too_old"] is True


def test_a_certificate_from_the_future_is_refused(
    network: SandboxNetwork, boundary: Boundary, counter: Principal
) -> None:
    present = [dt.datetime.now(dt.UTC)]

    def arrived(_request: httpx.Request, response: httpx.Response) -> httpx.Response:
        present[0] -= dt.timedelta(hours=1)  # the agent's clock is right: it is the certificate that is ahead
        return response

    boundary.change = arrived
    with Agent("http://127.0.0.1:1", root_key=network.root_key, transport=boundary, clock=lambda: present[0]) as agent:
        error = refused(agent, counter)
    assert (type(error), error.kind) == (CertificateError, "certificate_time")
    assert error.context["too_old"] is False


def test_a_certified_reply_hidden_behind_an_unsigned_rejection_is_told_apart(
    agent: Agent, boundary: Boundary, counter: Principal
) -> None:
    def change(fields: dict[str, Any]) -> None:
        fields.clear()
        fields.update(status="non_replicated_rejection", reject_code=3, reject_message="no", error_code="IC0301")

    boundary.change = changed(change)
    error = refused(agent, counter)
    assert (type(error), error.kind) == (RejectedError, "canister_not_found")
    assert isinstance(error, RejectedError)
    assert not error.certified
    assert "without a subnet's signature" in error.message


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields.update(reject_code="x", status="non_replicated_rejection"),
        lambda fields: fields.update(certificate=None),
        lambda fields: fields.update(certificate="text"),
        lambda fields: fields.pop("certificate"),
        lambda fields: fields.update(certificate=b""),
        lambda fields: fields.update(certificate=b"\xff" * 100),
        lambda fields: fields.update(certificate=TAG + cbor2.dumps({"tree": [0], "signature": b"\x00" * 48})),
        lambda fields: fields.update(certificate=TAG + cbor2.dumps({"tree": [4, b"\x00" * 32]})),
    ],
)
def test_answers_without_a_certificate_are_refused(
    agent: Agent, boundary: Boundary, counter: Principal, change: Callable[[dict[str, Any]], object]
) -> None:
    boundary.change = changed(change)
    error = refused(agent, counter)
    assert isinstance(error, CertificateError)
    assert error.context["may_have_run"]


def test_the_order_of_keys_does_not_matter(agent: Agent, boundary: Boundary, counter: Principal) -> None:
    def reorder(fields: dict[str, Any]) -> None:
        for name in sorted(fields):
            fields[name] = fields.pop(name)

    boundary.change = changed(reorder)
    agent.call(counter, "inc", NOTHING)
    boundary.change = certificate_changed(reorder)
    agent.call(counter, "inc", NOTHING)


@pytest.mark.parametrize("name", [b"status", b"certificate"])
def test_a_key_that_comes_twice_is_refused(agent: Agent, boundary: Boundary, counter: Principal, name: bytes) -> None:
    def change(_request: httpx.Request, response: httpx.Response) -> httpx.Response:
        body = bytearray(response.content)
        assert body[3] == 0xA2
        body[3] = 0xA3
        return answer(response, bytes(body) + bytes([0x60 + len(name)]) + name + b"\x67replied")

    boundary.change = change
    error = refused(agent, counter)
    assert (type(error), error.kind) == (CertificateError, "bad_reply")


@pytest.mark.parametrize("body", [b"", b"<html>hello</html>", b"{}", TAG, TAG + b"\x80", b"\x9f" * 1000])
def test_other_bodies_are_refused(agent: Agent, boundary: Boundary, counter: Principal, body: bytes) -> None:
    boundary.change = lambda _request, response: answer(response, body)
    error = refused(agent, counter)
    assert (type(error), error.kind) == (CertificateError, "bad_reply")


def test_a_body_cut_short_but_announced_as_whole_is_refused(
    agent: Agent, boundary: Boundary, counter: Principal
) -> None:
    boundary.change = lambda _request, response: answer(response, response.content[:-40])
    assert isinstance(refused(agent, counter), CertificateError)


def test_truncated_bodies_are_lost_answers(agent: Agent, network: SandboxNetwork, counter: Principal) -> None:
    network.faults.add(Truncate(0.5))
    with pytest.raises(SourceUnavailableError) as caught:
        agent.call(counter, "inc", NOTHING, repeatable=True)
    assert caught.value.kind == "connection_lost"


def test_one_truncated_body_costs_a_resend_only(agent: Agent, network: SandboxNetwork, counter: Principal) -> None:
    network.faults.add(Truncate(0.5), endpoint="call", nth=1)
    reply = agent.call(counter, "inc", NOTHING)
    assert bytes(reply.reply)[-8:] == (1).to_bytes(8, "little")


class _Endless(httpx.SyncByteStream):
    def __init__(self) -> None:
        self.given = 0

    def __iter__(self) -> Iterator[bytes]:
        while True:
            self.given += 65_536
            yield bytes(65_536)


@pytest.mark.parametrize("status", [200, 503])
def test_a_body_without_end_is_not_read_to_it(
    network: SandboxNetwork, boundary: Boundary, counter: Principal, status: int
) -> None:
    body = _Endless()
    boundary.change = lambda _request, _response: httpx.Response(status, stream=body)
    limits = AgentLimits(reply_bytes=1_000_000)
    with Agent("http://127.0.0.1:1", root_key=network.root_key, transport=boundary, limits=limits) as agent:
        error = refused(agent, counter)
    assert (type(error), error.kind) == (SourceError, "reply_too_large")
    assert body.given < 1_200_000


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip"])
def test_compressed_bodies_are_not_unpacked(
    agent: Agent, boundary: Boundary, counter: Principal, encoding: str
) -> None:
    boundary.change = lambda _request, response: httpx.Response(
        200, headers={"content-encoding": encoding}, stream=httpx.ByteStream(response.content)
    )
    error = refused(agent, counter)
    assert (type(error), error.kind) == (SourceError, "encoded_reply")


def test_a_boundary_that_hides_everything_leaves_the_outcome_unknown(
    network: SandboxNetwork, boundary: Boundary, counter: Principal
) -> None:
    network.faults.add(Truncate(0.5))
    seconds = iter(range(0, 10_000, 2))
    with (
        Agent(
            "http://127.0.0.1:1",
            root_key=network.root_key,
            transport=boundary,
            retry=RetryPolicy(attempts=2, first_delay_seconds=0.01),
            sleep=lambda _seconds: None,
            monotonic=lambda: next(seconds),
        ) as agent,
        pytest.raises(OutcomeUnknownError) as caught,
    ):
        agent.call(counter, "inc", NOTHING)
    assert "not known" in caught.value.message


def pruned(keep: Callable[[tuple[bytes, ...]], list[tuple[bytes, ...]]], *, only: str) -> Any:
    """Return a change that hides all of the certified state but some paths: what is left is as genuine as before."""

    def apply(fields: dict[str, Any]) -> None:
        data = fields["certificate"]
        outer = cbor2.loads(data[3:])
        tree = Certificate.parse(data).tree
        below = (b"request_status", tree.labels(b"request_status")[0])
        outer = {**outer, "tree": cbor2.loads(tree.pruned(keep(below)).encoded())}
        fields["certificate"] = TAG + cbor2.dumps(outer)

    return changed(apply, only=only)


def test_what_is_left_out_of_a_certificate_is_not_absent(
    agent: Agent, boundary: Boundary, network: SandboxNetwork, counter: Principal
) -> None:
    network.faults.add(ResetAfterExecution(), endpoint="call")
    boundary.change = pruned(lambda _below: [(b"time",)], only="read_state")
    error = refused(agent, counter)
    assert (type(error), error.kind) == (CertificateError, "certificate_path")
    assert error.context["may_have_run"]


@pytest.mark.parametrize("hidden", [b"status", b"reply"])
def test_a_reply_of_which_a_part_is_left_out_is_refused(
    agent: Agent, boundary: Boundary, counter: Principal, hidden: bytes
) -> None:
    shown = {b"status", b"reply"} - {hidden}
    boundary.change = pruned(lambda below: [(b"time",), *((*below, name) for name in shown)], only="call")
    assert refused(agent, counter).kind == "certificate_path"


@pytest.mark.parametrize("hidden", [b"error_code", b"reject_code", b"reject_message"])
def test_a_rejection_of_which_a_part_is_left_out_is_refused(
    agent: Agent, boundary: Boundary, counter: Principal, hidden: bytes
) -> None:
    shown = {b"status", b"error_code", b"reject_code", b"reject_message"} - {hidden}
    boundary.change = pruned(lambda below: [(b"time",), *((*below, name) for name in shown)], only="call")
    assert refused(agent, counter, "boom").kind == "certificate_path"


def test_an_old_proof_of_absence_does_not_mean_that_a_call_never_ran(
    agent: Agent, boundary: Boundary, count: Callable[[], int], counter: Principal
) -> None:
    inner, kept = boundary.inner, list[bytes]()

    class Delaying(httpx.BaseTransport):
        """Has a call executed only once it holds a certificate that knows nothing of it, which it shows ever after."""

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.path.endswith("/call"):
                if kept:
                    inner.handle_request(request)
                raise httpx.ReadError("lost")
            if not kept:
                kept.append(inner.handle_request(request).read())
            return httpx.Response(200, content=kept[0])

    boundary.inner = Delaying()
    error = refused(agent, counter)
    assert count() == 1
    assert (type(error), error.kind) == (CertificateError, "certificate_time")
    assert error.context["may_have_run"]


# Queries


def unsigned(fields: dict[str, Any]) -> None:
    fields["signatures"] = []


@pytest.mark.parametrize("change", [unsigned, lambda fields: fields.pop("signatures")])
def test_an_unsigned_query_answer_is_refused(
    agent: Agent, boundary: Boundary, counter: Principal, change: Callable[[dict[str, Any]], object]
) -> None:
    boundary.change = changed(change, only="query")
    with pytest.raises(CertificateError) as caught:
        agent.query(counter, "get", NOTHING)
    assert caught.value.kind == "node_signature"


def signed_by(node: NodeKey, *, age_seconds: float = 0, **said: Any) -> Any:
    """Return a change of query answers: what they say, signed by *node*."""

    def apply(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if not request.url.path.endswith("/query"):
            return response
        content = dict(cbor2.loads(request.content[3:])["content"])
        fields: dict[str, Any] = {"status": "replied", "reply": {"arg": b"DIDL\x00\x00"}, **said}
        timestamp = int((dt.datetime.now(dt.UTC).timestamp() - age_seconds) * 10**9)
        signed = content_hash({**fields, "request_id": request_id(content), "timestamp": timestamp})
        fields["signatures"] = [
            {"timestamp": timestamp, "signature": node.sign(IC_RESPONSE + signed), "identity": node.principal}
        ]
        return answer(response, TAG + cbor2.dumps(fields))

    return apply


def test_a_query_answer_of_an_unknown_node_is_refused_after_one_look_at_the_keys(
    agent: Agent, boundary: Boundary, counter: Principal
) -> None:
    agent.query(counter, "get", NOTHING)
    assert len(boundary.paths("read_state")) == 1
    boundary.change = signed_by(NodeKey(b"stranger"))
    with pytest.raises(CertificateError) as caught:
        agent.query(counter, "get", NOTHING)
    assert caught.value.kind == "node_signature"
    assert len(boundary.paths("read_state")) == 2


def test_keys_of_nodes_are_used_for_five_minutes(
    agent: Agent, boundary: Boundary, story: Any, counter: Principal
) -> None:
    for seconds, looks in ((0, 1), (290, 1), (20, 2)):
        story.sleep(seconds)
        agent.query(counter, "get", NOTHING)
        assert len(boundary.paths("read_state")) == looks


@pytest.mark.parametrize("age_seconds", [3600, -3600])
def test_a_query_answer_of_another_time_is_refused(
    agent: Agent, boundary: Boundary, network: SandboxNetwork, counter: Principal, age_seconds: float
) -> None:
    boundary.change = signed_by(network._certifier.node, age_seconds=age_seconds)
    with pytest.raises(CertificateError) as caught:
        agent.query(counter, "get", NOTHING)
    assert caught.value.kind == "certificate_time"


def test_a_changed_query_answer_is_refused(agent: Agent, boundary: Boundary, counter: Principal) -> None:
    boundary.change = changed(lambda fields: fields.update(reply={"arg": b"DIDL\x00\x01\x78" + bytes(8)}), only="query")
    agent.call(counter, "inc", NOTHING)
    with pytest.raises(CertificateError) as caught:
        agent.query(counter, "get", NOTHING)
    assert caught.value.kind == "node_signature"


def test_a_query_answer_turned_into_a_rejection_is_refused(
    agent: Agent, boundary: Boundary, counter: Principal
) -> None:
    def change(fields: dict[str, Any]) -> None:
        del fields["reply"]
        fields.update(status="rejected", reject_code=3, reject_message="no")

    boundary.change = changed(change, only="query")
    with pytest.raises(CertificateError) as caught:
        agent.query(counter, "get", NOTHING)
    assert caught.value.kind == "node_signature"


def test_a_replayed_query_answer_is_refused(agent: Agent, boundary: Boundary, counter: Principal) -> None:
    kept: list[bytes] = []

    def replay(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path.endswith("/query"):
            kept.append(response.content)
            return answer(response, kept[0])
        return response

    boundary.change = replay
    agent.query(counter, "get", NOTHING)
    with pytest.raises(CertificateError) as caught:
        agent.query(counter, "get", NOTHING)
    assert caught.value.kind == "node_signature"


def test_more_signatures_than_nodes_are_refused(agent: Agent, boundary: Boundary, counter: Principal) -> None:
    boundary.change = changed(lambda fields: fields.update(signatures=fields["signatures"] * 2), only="query")
    with pytest.raises(CertificateError) as caught:
        agent.query(counter, "get", NOTHING)
    assert caught.value.kind == "node_signature"


def test_rejections_of_queries_are_verified_too(agent: Agent, boundary: Boundary, counter: Principal) -> None:
    with pytest.raises(RejectedError) as caught:
        agent.query(counter, "nonsense", NOTHING)
    assert (caught.value.kind, caught.value.certified) == ("method_not_found", False)
    boundary.change = changed(lambda fields: fields.update(reject_message="other"), only="query")
    with pytest.raises(CertificateError):
        agent.query(counter, "nonsense", NOTHING)


def test_cheating_is_noticed_over_a_real_connection_too(
    network: SandboxNetwork, boundary: Boundary, counter: Principal
) -> None:
    with boundary.serve() as url, Agent(url, root_key=network.root_key) as agent:
        agent.call(counter, "inc", NOTHING)
        boundary.change = lambda _request, response: answer(response, flipped(response.content, -60))
        assert isinstance(refused(agent, counter), CertificateError)
        boundary.change = lambda _request, response: answer(response, response.content[:-1])
        assert isinstance(refused(agent, counter), CertificateError)


# The root subnet, whose certificates need no delegation


@pytest.fixture
def root_only(counter_wasm: bytes) -> Iterator[SandboxNetwork]:
    with SandboxNetwork(delegation=False, tick_seconds=None) as running:
        running.create_canister(counter_wasm)
        yield running


def test_the_root_subnet_is_believed_about_its_own_canisters_after_one_look(
    root_only: SandboxNetwork, counter: Principal
) -> None:
    boundary = Boundary(root_only.transport())
    with Agent("http://127.0.0.1:1", root_key=root_only.root_key, transport=boundary) as agent:
        for expected in (1, 2, 3):
            assert bytes(agent.call(counter, "inc", NOTHING).reply)[-8:] == expected.to_bytes(8, "little")
        assert len(boundary.paths("read_state")) == 1
        assert agent.query(counter, "get", NOTHING)[-8:] == (3).to_bytes(8, "little")


def test_the_root_subnet_is_not_believed_about_canisters_of_others(
    root_only: SandboxNetwork, counter: Principal
) -> None:
    # Only the URL names the canister, and nobody signs that: a boundary node may ask any subnet.
    boundary = Boundary(_Redirecting(root_only.transport(), OUTSIDE, counter))
    with (
        Agent("http://127.0.0.1:1", root_key=root_only.root_key, transport=boundary) as agent,
        pytest.raises(CertificateError) as caught,
    ):
        agent.read_state(OUTSIDE, [(b"request_status", bytes(32))])
    assert caught.value.kind == "certificate_range"
