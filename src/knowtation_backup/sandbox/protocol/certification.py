"""
The sandbox's certified state: assembles the part of the state tree an answer needs, and signs it.

The whole tree is never built. What nobody asked for appears as a pruned node with a digest made up for the occasion,
which no verifier can tell from the real one; everything revealed is true, and so are proofs of absence. The paths are
those of the internet-computer reference, B.4; ``/subnet/<id>/metrics`` and the boundary nodes are (provably) absent.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from ..messages import Rejected, Replied
from . import cbor
from .crypto import STATE_ROOT, BlsKey, NodeKey
from .hash_tree import Empty, Fork, HashTree, Labeled, Leaf, Path, Pruned, branch, digest, encode_parts, forked, prune

if TYPE_CHECKING:
    from ..clock import SandboxClock
    from ..messages import RequestStatus
    from ..state import Canister

__all__ = ["FIRST_CANISTER", "LAST_CANISTER", "Certifier", "canister_tree", "leb128", "request_tree"]

FIRST_CANISTER: Final = bytes.fromhex("00000000000000000101")
LAST_CANISTER: Final = bytes.fromhex("ffffffffffffffff0101")

_DELEGATION_LIFETIME_NS: Final = 3600 * 1_000_000_000
_ROOT_LABELS: Final = (b"api_boundary_nodes", b"canister", b"canister_ranges", b"request_status", b"subnet", b"time")
_REQUEST_ID_SPACE: Final = 1 << 256


def leb128(value: int) -> bytes:
    """Return *value* (at least 0) in shortest unsigned LEB128, the form of every number in the state tree."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def request_tree(status: RequestStatus) -> HashTree:
    """Return the subtree below ``/request_status/<request id>``."""
    leaves: dict[bytes, HashTree] = {b"status": Leaf(status.state.value.encode())}
    match status.answer:
        case Replied(data):
            leaves[b"reply"] = Leaf(data)
        case Rejected() as refusal:
            leaves[b"reject_code"] = Leaf(leb128(refusal.code))
            leaves[b"reject_message"] = Leaf(refusal.message.encode())
            leaves[b"error_code"] = Leaf(refusal.error_code.encode())
    return branch(leaves)


def canister_tree(canister: Canister) -> HashTree:
    """Return the subtree below ``/canister/<canister id>``."""
    children: dict[bytes, HashTree] = {
        b"canister_creation_timestamp": Leaf(leb128(canister.created_at)),
        b"certified_data": Leaf(canister.certified_data),
        b"controllers": Leaf(cbor.encode_tagged(sorted(canister.settings.controllers))),
    }
    if canister.code is not None:
        module = canister.code.module
        children[b"last_install_timestamp"] = Leaf(leb128(canister.last_install_at))
        children[b"module_hash"] = Leaf(module.hash)
        sections = module.custom_sections.items()
        children[b"metadata"] = branch({name.encode(): Leaf(section.content) for name, section in sections})
    return branch(children)


class Certifier:
    """
    Keys of the network and everything they sign for subnets.

    Args:
        clock: Gives ``/time``.
        seed: Keys are derived from it; equal seeds give equal keys.
        delegation: Whether the subnet has a key of its own, which the root key vouches for. Otherwise the root key
            signs everything itself.
    """

    def __init__(self, *, clock: SandboxClock, seed: bytes = b"", delegation: bool = True) -> None:
        self._clock = clock
        self._root = BlsKey.from_seed(b"root" + seed)
        self._subnet = BlsKey.from_seed(b"subnet" + seed) if delegation else self._root
        self._delegated = delegation
        self._filler_secret = hashlib.sha256(b"filler" + seed).digest()
        self._delegations: dict[bool, tuple[int, bytes]] = {}
        self._lock = threading.Lock()
        self.node: NodeKey = NodeKey(seed)

    @property
    def root_key_der(self) -> bytes:
        """The network's root key, 133 bytes."""
        return self._root.der

    @property
    def subnet_id(self) -> bytes:
        """Principal of the one subnet."""
        return self._subnet.principal

    def certificate(
        self, subtrees: Mapping[bytes, HashTree], paths: Iterable[Path], *, sharded: bool, age_ns: int = 0
    ) -> list[bytes]:
        """
        Return a signed certificate that reveals ``/time`` and *paths*, as parts to be joined.

        Args:
            subtrees: Known parts of the state by their first label; the rest is pruned.
            paths: What to reveal; must lie in *subtrees*.
            sharded: Whether the delegation, if any, reveals the sharded form of the canister ranges.
            age_ns: How far ``/time`` lies in the past.
        """
        now = max(0, self._clock.now_ns() - age_ns)
        below: dict[bytes, list[Path]] = {b"time": [()]}
        for path in paths:
            below.setdefault(path[0], []).append(path[1:])
        known = {b"time": Leaf(leb128(now)), **subtrees}
        revealed: list[HashTree] = []
        for label in _ROOT_LABELS:
            if label in below:
                revealed.append(Labeled(label, prune(known[label], below[label])))
            elif not revealed or not isinstance(revealed[-1], Pruned):
                revealed.append(self._filler(label, now))
        parts = self._sign(self._subnet, forked(revealed), pairs=3 if self._delegated else 2)
        if self._delegated:
            parts.append(cbor.text("delegation"))
            parts.append(self._delegation(sharded=sharded))
        return parts

    def request_certificate(
        self, request_id: bytes, status: RequestStatus | None, *, sharded: bool, age_ns: int = 0
    ) -> list[bytes]:
        """Return a certificate for ``/request_status/<request id>``; `None` is proved absent."""
        subtrees = {b"request_status": self.request_history(request_id, status)}
        return self.certificate(subtrees, [(b"request_status",)], sharded=sharded, age_ns=age_ns)

    def data_certificate(self, canister_id: bytes, certified_data: bytes) -> bytes:
        """Return the certificate that a query of the canister may hand out."""
        data = self._among_others(canister_id, branch({b"certified_data": Leaf(certified_data)}))
        path = (b"canister", canister_id, b"certified_data")
        return b"".join(self.certificate({b"canister": data}, [path], sharded=True))

    def request_history(self, request_id: bytes, status: RequestStatus | None) -> HashTree:
        """Return the part of ``/request_status`` around one request."""
        if status is not None:
            return self._among_others(request_id, request_tree(status))
        # Absence needs revealed neighbours. The history is not kept sorted, so the nearest possible ids stand in.
        position = int.from_bytes(request_id, "big")
        neighbours = [position - 1] if position else []
        if position + 1 < _REQUEST_ID_SPACE:
            neighbours.append(position + 1)
        labels = [neighbour.to_bytes(32, "big") for neighbour in neighbours]
        return branch({label: self._filler(label, 0) for label in labels})

    def all_canisters(self, canisters: Mapping[bytes, Canister], canister_id: bytes) -> HashTree:
        """Return ``/canister`` with only *canister_id* (when it exists) in detail."""
        children: dict[bytes, HashTree] = {label: self._filler(label, 1) for label in canisters}
        canister = canisters.get(canister_id)
        if canister is not None:
            children[canister_id] = canister_tree(canister)
        return branch(children)

    def subnet_tree(self, *, with_ranges: bool) -> HashTree:
        """Return ``/subnet``; the flat ranges are pruned unless asked for or needed (no delegation)."""
        ranges = Leaf(self._ranges())
        return branch(
            {
                self.subnet_id: branch(
                    {
                        b"canister_ranges": ranges if with_ranges or not self._delegated else Pruned(digest(ranges)),
                        b"node": branch(
                            {self.node.principal: branch({b"public_key": Leaf(self.node.der)})},
                        ),
                        b"public_key": Leaf(self._subnet.der),
                        b"type": Leaf(b"application"),
                    }
                )
            }
        )

    def ranges_tree(self) -> HashTree:
        """Return ``/canister_ranges``: one shard, which every known client accepts."""
        return branch({self.subnet_id: branch({FIRST_CANISTER: Leaf(self._ranges())})})

    def no_boundary_nodes(self) -> HashTree:
        """Return ``/api_boundary_nodes``: the sandbox has none."""
        return Empty()

    def _ranges(self) -> bytes:
        return cbor.encode_tagged([[FIRST_CANISTER, LAST_CANISTER]])

    def _delegation(self, *, sharded: bool) -> bytes:
        now = self._clock.now_ns()
        with self._lock:
            made_at, encoded = self._delegations.get(sharded, (0, b""))
            if now - made_at > _DELEGATION_LIFETIME_NS:
                encoded = self._new_delegation(now, sharded=sharded)
                self._delegations[sharded] = (now, encoded)
            return encoded

    def _new_delegation(self, now: int, *, sharded: bool) -> bytes:
        ranges = Leaf(self._ranges())
        whole = branch(
            {
                b"api_boundary_nodes": self.no_boundary_nodes(),
                b"canister": self._filler(b"canister", now),
                b"canister_ranges": self.ranges_tree(),
                b"request_status": self._filler(b"request_status", now),
                b"subnet": self._among_others(
                    self.subnet_id,
                    branch({b"canister_ranges": ranges, b"public_key": Leaf(self._subnet.der)}),
                ),
                b"time": Leaf(leb128(now)),
            }
        )
        form = (b"canister_ranges", self.subnet_id) if sharded else (b"subnet", self.subnet_id, b"canister_ranges")
        tree = prune(whole, [(b"time",), (b"subnet", self.subnet_id, b"public_key"), form])
        certificate = b"".join(self._sign(self._root, tree, pairs=2))
        return (
            cbor.head_map(2)
            + cbor.text("subnet_id")
            + cbor.head_bytes(len(self.subnet_id))
            + self.subnet_id
            + cbor.text("certificate")
            + cbor.head_bytes(len(certificate))
            + certificate
        )

    def _sign(self, key: BlsKey, tree: HashTree, *, pairs: int) -> list[bytes]:
        signature = key.sign(STATE_ROOT + digest(tree))
        parts = [cbor.SELF_DESCRIBED + cbor.head_map(pairs) + cbor.text("tree")]
        encode_parts(tree, parts)
        parts.append(cbor.text("signature") + cbor.head_bytes(len(signature)) + signature)
        return parts

    def _filler(self, label: bytes, salt: int) -> Pruned:
        return Pruned(hashlib.sha256(self._filler_secret + salt.to_bytes(16, "big") + label).digest())

    def _among_others(self, label: bytes, subtree: HashTree) -> HashTree:
        return Fork(Fork(self._filler(label, 2), Labeled(label, subtree)), self._filler(label, 3))
