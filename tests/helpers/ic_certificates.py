"""Certificates made to measure: whatever a network, an old network or an attacker might send."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import cbor2

from knowtation_backup.sandbox.protocol.crypto import STATE_ROOT, BlsKey
from knowtation_backup.sandbox.protocol.hash_tree import HashTree, Leaf, branch, digest, encode_parts

ROOT = BlsKey.from_seed(b"root of the tests")
SUBNET = BlsKey.from_seed(b"subnet of the tests")
STRANGER = BlsKey.from_seed(b"somebody else")
CANISTER = bytes.fromhex("00000000000000010101")
SELF_DESCRIBED = b"\xd9\xd9\xf7"

Range = tuple[bytes, bytes]
EVERYTHING: Range = (bytes(8) + b"\x01\x01", b"\xff" * 8 + b"\x01\x01")


def leb128(number: int) -> bytes:
    """Return unsigned LEB128."""
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*parts, number))


def tree_of(value: Mapping[bytes, Any] | bytes | HashTree) -> HashTree:
    """Return the tree of nested maps, with byte strings as leaves."""
    if isinstance(value, bytes):
        return Leaf(value)
    if isinstance(value, Mapping):
        return branch({label: tree_of(child) for label, child in value.items()})
    return value


def encoded(tree: HashTree) -> bytes:
    """Return the CBOR form of a tree."""
    parts: list[bytes] = []
    encode_parts(tree, parts)
    return b"".join(parts)


def certificate(
    state: Mapping[bytes, Any] | HashTree,
    *,
    key: BlsKey = SUBNET,
    delegation: Mapping[str, bytes] | None = None,
    time_ns: int | None = None,
    signature: bytes | None = None,
) -> bytes:
    """Return a certificate of *state*; a map gets a ``time`` unless it has one."""
    if isinstance(state, Mapping):
        state = {b"time": leb128(time.time_ns() if time_ns is None else time_ns), **state}
    tree = tree_of(state)
    fields: dict[str, Any] = {
        "tree": cbor2.loads(encoded(tree)),
        "signature": key.sign(STATE_ROOT + digest(tree)) if signature is None else signature,
    }
    if delegation is not None:
        fields["delegation"] = delegation
    return SELF_DESCRIBED + cbor2.dumps(fields)


def ranges(*pairs: Range) -> bytes:
    """Return canister ranges as certified."""
    return SELF_DESCRIBED + cbor2.dumps([list(pair) for pair in pairs])


def delegation(
    *,
    subnet: BlsKey = SUBNET,
    key: BlsKey = ROOT,
    flat: Iterable[Range] | None = None,
    shards: Mapping[bytes, Iterable[Range]] | None = None,
    time_ns: int | None = None,
    subnet_key: bytes | None = None,
    inner: Mapping[str, bytes] | None = None,
) -> dict[str, bytes]:
    """Return a delegation of *key* to *subnet*, with ranges in either form."""
    about: dict[bytes, Any] = {b"public_key": subnet.der if subnet_key is None else subnet_key}
    state: dict[bytes, Any] = {b"subnet": {subnet.principal: about}}
    if flat is not None:
        about[b"canister_ranges"] = ranges(*flat)
    if shards is not None:
        shard_leaves = {first: ranges(*pairs) for first, pairs in shards.items()}
        state[b"canister_ranges"] = {subnet.principal: shard_leaves}
    return {
        "subnet_id": subnet.principal,
        "certificate": certificate(state, key=key, delegation=inner, time_ns=time_ns),
    }
