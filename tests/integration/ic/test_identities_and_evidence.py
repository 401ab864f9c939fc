"""Every kind of identity is accepted by a network that checks signatures, and what it answers is kept as evidence."""

from __future__ import annotations

import datetime as dt
import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from ic.identity import DelegateIdentity as IcPyDelegateIdentity
from ic.identity import Identity as IcPyIdentity
from icp_identity.identity import Identity as IcpPyCoreIdentity  # type: ignore[import-untyped]

from knowtation_backup.errors import CertificateError, RejectedError
from knowtation_backup.ic.agent import Agent
from knowtation_backup.ic.delegation_chain import DelegationChain, SignedDelegation
from knowtation_backup.ic.evidence import CallEvidence, DelegationBook
from knowtation_backup.ic.identity import AnonymousIdentity, DelegatedIdentity, Identity, KeyIdentity, identity_of
from knowtation_backup.ic.wire import IC_REQUEST_AUTH_DELEGATION, content_hash
from knowtation_backup.model.ids import Principal
from knowtation_backup.sandbox import SandboxNetwork

URL = "http://127.0.0.1:1"
ARG = bytes(range(200))
SEED = bytes(range(32))


def _key(number: int) -> KeyIdentity:
    return KeyIdentity(ed25519.Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32))


def _chain(
    *keys: KeyIdentity, targets: tuple[Principal, ...] | None = None, expiry: int | None = None
) -> DelegationChain:
    expiry = time.time_ns() + 3600 * 10**9 if expiry is None else expiry
    links = []
    for signer, key in itertools.pairwise(keys):
        assert key.public_key is not None
        fields: dict[str, Any] = {"pubkey": key.public_key, "expiration": expiry}
        if targets is not None:
            fields["targets"] = [target.raw for target in targets]
        signature = signer.sign(IC_REQUEST_AUTH_DELEGATION + content_hash(fields))
        links.append(
            SignedDelegation(public_key=key.public_key, expires_at_ns=expiry, targets=targets, signature=signature)
        )
    assert keys[0].public_key is not None
    return DelegationChain(public_key=keys[0].public_key, delegations=tuple(links))


def _ic_py_delegate() -> Identity:
    session = ed25519.Ed25519PrivateKey.from_private_bytes(SEED)
    (link,) = _chain(_key(1), KeyIdentity(session)).delegations
    owner = _key(1).public_key
    assert owner is not None
    inner = {"pubkey": link.public_key.hex(), "expiration": f"{link.expires_at_ns:x}"}
    chain = {"delegations": [{"delegation": inner, "signature": link.signature.hex()}], "publicKey": owner.hex()}
    return identity_of(IcPyDelegateIdentity(IcPyIdentity(privkey=SEED.hex()), chain))


IDENTITIES: dict[str, Callable[[], Identity]] = {
    "anonymous": AnonymousIdentity,
    "ed25519": lambda: _key(1),
    "secp256k1": lambda: KeyIdentity(ec.derive_private_key(7, ec.SECP256K1())),
    "p256": lambda: KeyIdentity(ec.derive_private_key(7, ec.SECP256R1())),
    "delegated": lambda: DelegatedIdentity(_key(2), _chain(_key(1), _key(2))),
    "delegated-twice": lambda: DelegatedIdentity(_key(3), _chain(_key(1), _key(2), _key(3))),
    "ic-py": lambda: identity_of(IcPyIdentity(privkey=SEED.hex())),
    "ic-py-secp256k1": lambda: identity_of(IcPyIdentity(privkey=SEED.hex(), type="secp256k1")),
    "ic-py-delegate": _ic_py_delegate,
    "icp-py-core": lambda: identity_of(IcpPyCoreIdentity(privkey=SEED.hex(), type="p256")),
}


def _agent(network: SandboxNetwork, identity: Identity) -> Agent:
    return Agent(URL, identity=identity, root_key=network.root_key, transport=network.transport())


@pytest.mark.parametrize("name", sorted(IDENTITIES))
def test_the_network_accepts_every_kind_of_identity(network: SandboxNetwork, counter: Principal, name: str) -> None:
    identity = IDENTITIES[name]()
    before = dt.datetime.now(dt.UTC)
    with _agent(network, identity) as agent:
        reply = agent.call(counter, "echo", [ARG[:50], memoryview(ARG)[50:]])
        assert bytes(reply.reply) == agent.query(counter, "echo_query", ARG) == ARG
    evidence = CallEvidence.of(reply)
    certified_at = evidence.check(arg=ARG, reply=[ARG[:7], ARG[7:]], root_key=network.root_key)
    assert abs(certified_at - before) < dt.timedelta(minutes=5)
    assert evidence.sender == identity.sender
    with pytest.raises(CertificateError):
        evidence.check(arg=ARG[1:], reply=ARG, root_key=network.root_key)
    with pytest.raises(CertificateError):
        evidence.check(arg=ARG, reply=ARG[1:], root_key=network.root_key)


def test_a_delegation_signed_by_somebody_else_is_refused_by_the_network(
    network: SandboxNetwork, counter: Principal
) -> None:
    forged = DelegationChain(public_key=_key(1).public_key or b"", delegations=_chain(_key(5), _key(2)).delegations)
    with _agent(network, DelegatedIdentity(_key(2), forged)) as agent, pytest.raises(RejectedError) as caught:
        agent.call(counter, "echo", ARG)
    assert caught.value.kind == "identity_refused"


def test_a_delegation_for_one_canister_calls_it(network: SandboxNetwork, counter: Principal) -> None:
    identity = DelegatedIdentity(_key(2), _chain(_key(1), _key(2), targets=(counter,)))
    with _agent(network, identity) as agent:
        assert bytes(agent.call(counter, "echo", ARG).reply) == ARG


@pytest.mark.parametrize("delegation", [True, False])
def test_many_records_share_one_delegation(counter_wasm: bytes, *, delegation: bool) -> None:
    with SandboxNetwork(tick_seconds=None, delegation=delegation) as network:
        counter = Principal(network.create_canister(counter_wasm))
        book = DelegationBook()
        with _agent(network, AnonymousIdentity()) as agent:
            replies = [agent.call(counter, "echo", bytes([number])) for number in range(10)]
            records = [CallEvidence.of(reply).to_cbor(book) for reply in replies]
        assert len(book) == delegation
        read = DelegationBook.from_cbor(book.to_cbor())
        for number, record in enumerate(records):
            evidence = CallEvidence.from_cbor(record, read)
            evidence.check(arg=bytes([number]), reply=bytes([number]), root_key=network.root_key)
            with pytest.raises(CertificateError):
                evidence.check(arg=bytes([number + 1]), reply=bytes([number + 1]), root_key=network.root_key)
