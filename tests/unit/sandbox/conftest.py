"""A fake replica, and an Internet Computer client that shares nothing with the sandbox but third-party libraries."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import attrs
import cbor2
import pyblst
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from knowtation_backup.sandbox.clock import SandboxClock
from knowtation_backup.sandbox.messages import Answer, Call, Rejected, Replied, RequestState, RequestStatus
from knowtation_backup.sandbox.protocol.certification import Certifier
from knowtation_backup.sandbox.protocol.exchange import HttpReply, HttpRequest
from knowtation_backup.sandbox.protocol.http_api import HttpApi
from knowtation_backup.sandbox.state import Canister, CanisterSettings

CANISTER = bytes.fromhex("00000000000000010101")
CANISTER_TEXT = "rrkah-fqaaa-aaaaa-aaaaq-cai"
TAG = b"\xd9\xd9\xf7"


def rih(fields: dict[str, Any]) -> bytes:
    def encode(value: Any) -> bytes:
        if isinstance(value, dict):
            return rih(value)
        if isinstance(value, list):
            return hashlib.sha256(b"".join(map(encode, value))).digest()
        if isinstance(value, str):
            value = value.encode()
        if isinstance(value, int):
            digits = []
            while True:
                digits.append(value % 128)
                value //= 128
                if not value:
                    break
            value = bytes([digit | 128 for digit in digits[:-1]] + digits[-1:])
        return hashlib.sha256(value).digest()

    return hashlib.sha256(
        b"".join(sorted(hashlib.sha256(key.encode()).digest() + encode(value) for key, value in fields.items()))
    ).digest()


@attrs.frozen
class Identity:
    der: bytes
    sign: Callable[[bytes], bytes]

    @property
    def principal(self) -> bytes:
        return hashlib.sha224(self.der).digest() + b"\x02"


def ed25519(seed: int = 0) -> Identity:
    key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    der = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return Identity(der, key.sign)


def ecdsa(curve: ec.EllipticCurve, secret: int = 1) -> Identity:
    key = ec.derive_private_key(secret, curve)
    der = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

    def sign(message: bytes) -> bytes:
        r, s = utils.decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    return Identity(der, sign)


def delegate(root: Identity, to: Identity, **extra: Any) -> dict[str, Any]:
    delegation = {"pubkey": to.der, "expiration": time.time_ns() + 10**12, **extra}
    return {"delegation": delegation, "signature": root.sign(b"\x1aic-request-auth-delegation" + rih(delegation))}


@attrs.define
class FakeReplica:
    """Echoes arguments; ``fail`` rejects, ``slow`` stays in progress, ``refuse`` is filtered."""

    canisters: dict[bytes, Canister] = attrs.field(factory=dict)
    calls: list[Call] = attrs.field(factory=list)
    history: dict[bytes, RequestStatus] = attrs.field(factory=dict)
    ticks: int = 0
    lock: Any = attrs.field(factory=threading.RLock)

    def call(self, call: Call) -> RequestStatus:
        if call.method == "refuse":
            raise Rejected("IC0301", "Canister not found")
        if call.request_id in self.history:
            return self.history[call.request_id]
        self.calls.append(call)
        answer: Answer | None = Replied(call.arg)
        state = RequestState.REPLIED
        if call.method == "fail":
            answer, state = Rejected("IC0503", "Panicked"), RequestState.REJECTED
        if call.method == "slow":
            answer, state = None, RequestState.PROCESSING
        status = RequestStatus(state=state, sender=call.sender, canister_id=call.canister_id, answer=answer)
        self.history[call.request_id] = status
        return status

    def query(self, call: Call) -> Answer:
        self.calls.append(call)
        return Rejected("IC0536", "no such query") if call.method == "fail" else Replied(call.arg)

    def request_status(self, request_id: bytes) -> RequestStatus | None:
        return self.history.get(request_id)

    def tick(self) -> None:
        self.ticks += 1
        self.history = {
            key: attrs.evolve(status, state=RequestState.REPLIED, answer=Replied(b"late"))
            if status.state is RequestState.PROCESSING and self.ticks > 2
            else status
            for key, status in self.history.items()
        }


def new_canister(controller: bytes) -> Canister:
    sections = {
        "candid:service": SimpleNamespace(public=True, content=b"service : {}"),
        "secret": SimpleNamespace(public=False, content=b"for controllers"),
    }
    module = SimpleNamespace(hash=hashlib.sha256(b"module").digest(), custom_sections=sections)
    return Canister(
        canister_id=CANISTER,
        settings=CanisterSettings(controllers=[controller]),
        created_at=7,
        code=SimpleNamespace(module=module),  # type: ignore[arg-type] # only what certification looks at
        last_install_at=9,
        certified_data=b"certified",
    )


# A reader of certificates


def digest(tree: list[Any]) -> bytes:
    def hashed(domain: str, *parts: bytes) -> bytes:
        return hashlib.sha256(bytes([len(domain)]) + domain.encode() + b"".join(parts)).digest()

    if tree[0] == 0:
        return hashed("ic-hashtree-empty")
    if tree[0] == 1:
        return hashed("ic-hashtree-fork", digest(tree[1]), digest(tree[2]))
    if tree[0] == 2:
        return hashed("ic-hashtree-labeled", tree[1], digest(tree[2]))
    if tree[0] == 3:
        return hashed("ic-hashtree-leaf", tree[1])
    assert tree[0] == 4
    assert len(tree[1]) == 32
    return bytes(tree[1])


def flatten(tree: list[Any]) -> Iterator[list[Any]]:
    if tree[0] == 1:
        yield from flatten(tree[1])
        yield from flatten(tree[2])
    elif tree[0] != 0:
        yield tree


def lookup(tree: list[Any], *path: bytes | str) -> Any:
    """Return the value, ``"absent"`` or ``"unknown"``, as the specification defines it."""
    if not path:
        return tree[1] if tree[0] == 3 else "unknown" if tree[0] == 4 else tree
    label = path[0].encode() if isinstance(path[0], str) else path[0]
    nodes: list[Any] = list(flatten(tree))
    for node in nodes:
        if node[0] == 2 and node[1] == label:
            return lookup(node[2], *path[1:])
    before: Any = None
    for node in [*nodes, None]:
        smaller = before is None or (before[0] == 2 and before[1] < label)
        greater = node is None or (node[0] == 2 and node[1] > label)
        if smaller and greater:
            return "absent"
        before = node
    return "unknown"


def bls_verifies(der: bytes, message: bytes, signature: bytes) -> bool:
    assert len(der) == 133
    generator = bytes.fromhex(
        "93e02b6052719f607dacd3a088274f65596bd0d09920b61ab5da61bbdc7f5049334cf11213945d57e5ac7d055d042b7e"
        "024aa2b2f08f0a91260805272dc51051c6e47ad4fa403b02b4510b647ae3d1770bac0326a805bbefd48056c8c121bdb8"
    )
    hashed = pyblst.BlstP1Element().hash_to_group(message, b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_")
    left = pyblst.miller_loop(
        pyblst.BlstP1Element().uncompress(signature), pyblst.BlstP2Element().uncompress(generator)
    )
    right = pyblst.miller_loop(hashed, pyblst.BlstP2Element().uncompress(der[-96:]))
    return bool(pyblst.final_verify(left, right))


def verified(certificate: bytes, root_key: bytes, *, canister: bytes | None = None) -> list[Any]:
    """Verify a certificate with its delegation and return its tree."""
    assert certificate.startswith(TAG)
    fields = cbor2.loads(certificate[3:])
    key = root_key
    if "delegation" in fields:
        subnet = fields["delegation"]["subnet_id"]
        inner = fields["delegation"]["certificate"]
        assert "delegation" not in cbor2.loads(inner[3:])
        inner_tree = verified(inner, root_key)
        key = lookup(inner_tree, "subnet", subnet, "public_key")
        assert hashlib.sha224(key).digest() + b"\x02" == subnet
        if canister is not None:
            ranges = lookup(inner_tree, "subnet", subnet, "canister_ranges")
            if not isinstance(ranges, bytes):
                shards = lookup(inner_tree, "canister_ranges", subnet)
                ranges = max(node for node in flatten(shards) if node[0] == 2 and node[1] <= canister)[2][1]
            assert any(low <= canister <= high for low, high in cbor2.loads(ranges[3:]))
    assert bls_verifies(key, b"\x0dic-state-root" + digest(fields["tree"]), fields["signature"])
    return list(fields["tree"])


@attrs.define
class Client:
    """Posts envelopes straight into the core."""

    api: HttpApi
    identity: Identity | None = None
    tagged: bool = True

    def content(self, kind: str, **extra: Any) -> dict[str, Any]:
        sender = self.identity.principal if self.identity else b"\x04"
        content = {"request_type": kind, "sender": sender, "ingress_expiry": time.time_ns() + 60 * 10**9}
        if kind != "read_state":
            content |= {"canister_id": CANISTER, "method_name": "echo", "arg": b"DIDL\x00\x00"}
        return content | extra

    def envelope(self, content: dict[str, Any], **extra: Any) -> bytes:
        envelope: dict[str, Any] = {"content": content}
        if self.identity:
            envelope["sender_pubkey"] = self.identity.der
            envelope["sender_sig"] = self.identity.sign(b"\x0aic-request" + rih(content))
        return (TAG if self.tagged else b"") + cbor2.dumps(envelope | extra)

    def post(self, path: str, body: bytes, content_type: str = "application/cbor") -> HttpReply:
        return self.api.handle(
            HttpRequest(method="POST", path=path, headers=(("content-type", content_type),), body=body)
        )

    def send(self, kind: str, *, version: str = "v3", target: str = CANISTER_TEXT, **extra: Any) -> HttpReply:
        return self.post(f"/api/{version}/canister/{target}/{kind}", self.envelope(self.content(kind, **extra)))


def cbor(reply: HttpReply) -> dict[str, Any]:
    assert reply.status == 200, reply.body
    assert dict(reply.headers)["content-type"] == "application/cbor"
    assert reply.body.startswith(TAG)
    return dict(cbor2.loads(reply.body[3:]))


@pytest.fixture
def replica() -> FakeReplica:
    fake = FakeReplica()
    fake.canisters[CANISTER] = new_canister(ed25519().principal)
    return fake


@pytest.fixture
def clock() -> SandboxClock:
    return SandboxClock()


@pytest.fixture(params=[True, False], ids=["delegation", "root"])
def certifier(request: pytest.FixtureRequest, clock: SandboxClock) -> Certifier:
    return Certifier(clock=clock, delegation=request.param)


@pytest.fixture
def api(replica: FakeReplica, certifier: Certifier, clock: SandboxClock) -> HttpApi:
    return HttpApi(replica=replica, certifier=certifier, clock=clock, call_wait_seconds=0.3)  # type: ignore[arg-type]


@pytest.fixture
def ic(api: HttpApi) -> Client:
    return Client(api)


@pytest.fixture
def tools() -> SimpleNamespace:
    """The client's parts, for tests that need them one by one."""
    return SimpleNamespace(
        rih=rih,
        ed25519=ed25519,
        ecdsa=ecdsa,
        delegate=delegate,
        digest=digest,
        lookup=lookup,
        verified=verified,
        bls_verifies=bls_verifies,
        cbor=cbor,
        Client=Client,
        canister=CANISTER,
        canister_text=CANISTER_TEXT,
    )
