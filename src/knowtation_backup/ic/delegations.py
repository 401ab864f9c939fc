"""
What the root subnet vouches for: keys and canister ranges of other subnets, inside delegations.

Source:
    IC interface specification, "Certification: Delegation"; internet-computer reference, B.3.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, TypeAlias

import attrs

from ..errors import CertificateError, ConfigurationError
from ..model.ids import Principal
from .bls import PUBLIC_KEY_BYTES
from .cbor import Buffer, CborError, decode, listed
from .hash_tree import NOT_USED, Found, HashTree, Unknown

__all__ = [
    "ROOT_KEY_PREFIX",
    "Ranges",
    "SubnetFacts",
    "VerdictCache",
    "bls_key",
    "contains",
    "flat_ranges",
    "root_bls_key",
    "root_key_der",
]

ROOT_KEY_PREFIX: Final = bytes.fromhex("308182301d060d2b0601040182dc7c0503010201060c2b0601040182dc7c05030201036100")
"""DER in front of the 96 bytes of a subnet's key."""

_MOST_CACHED: Final = 64
_MOST_RANGE_ITEMS: Final = 1_000_000
"""Read only after the root key's signature over them was found genuine; long lists are no attack then."""

Ranges: TypeAlias = tuple[tuple[bytes, bytes], ...]
"""Pairs of canister ids, both inclusive."""


def bls_key(der: Buffer) -> bytes:
    """Return the 96 bytes of a subnet's key in DER form; raises `ValueError`."""
    raw = bytes(der)
    if len(raw) != len(ROOT_KEY_PREFIX) + PUBLIC_KEY_BYTES or not raw.startswith(ROOT_KEY_PREFIX):
        raise ValueError("not the key of a subnet")
    return raw[len(ROOT_KEY_PREFIX) :]


def root_bls_key(der: bytes) -> bytes:
    """Return the 96 bytes of a network's root key; raises `ConfigurationError`."""
    try:
        return bls_key(der)
    except ValueError:
        message = "this is not the root key of a network"
        hint = "give it in DER form, 133 bytes, or as 266 hexadecimal digits"
        raise ConfigurationError(message, kind="bad_root_key", hint=hint) from None


def root_key_der(value: bytes | str) -> bytes:
    """Return a network's root key in DER form, given so or as hexadecimal digits; raises `ConfigurationError`."""
    try:
        key = bytes.fromhex(value) if isinstance(value, str) else bytes(value)
    except (TypeError, ValueError):
        key = b""
    root_bls_key(key)  # raises unless it is one
    return key


def contains(ranges: Ranges, canister_id: bytes) -> bool:
    """Say whether *canister_id* lies in one of *ranges*; compared byte by byte, ends included."""
    return any(low <= canister_id <= high for low, high in ranges)


@attrs.frozen(kw_only=True)
class SubnetFacts:
    """What a verified delegation says about a subnet."""

    subnet_id: Principal
    public_key: bytes
    """The 96 bytes."""
    time_ns: int
    flat: Ranges | None
    """Ranges in one list; `None` when they are not revealed."""
    shards: tuple[tuple[bytes, Ranges], ...] | None
    """Ranges in parts, by the first id of each; `None` when they are not revealed."""

    @classmethod
    def read(cls, subnet_id: Principal, tree: HashTree, time_ns: int) -> SubnetFacts:
        """Read the facts from the tree of a delegation's certificate, whose signature holds."""
        found = tree.lookup(b"subnet", subnet_id.raw, b"public_key")
        if not isinstance(found, Found):
            message = f"the delegation to subnet {subnet_id} does not hold that subnet's key"
            raise CertificateError(message, kind="certificate_delegation", hint=NOT_USED, subnet_id=str(subnet_id))
        try:
            public_key = bls_key(found.value)
        except ValueError:
            message = f"the delegation to subnet {subnet_id} holds a key of an unknown form"
            raise CertificateError(
                message, kind="certificate_delegation", hint=NOT_USED, subnet_id=str(subnet_id)
            ) from None
        return cls(
            subnet_id=subnet_id,
            public_key=public_key,
            time_ns=time_ns,
            flat=flat_ranges(tree, subnet_id),
            shards=_shards(tree, subnet_id),
        )

    def covers(self, canister_id: bytes) -> bool:
        """Say whether the subnet answers for *canister_id*."""
        if self.flat is not None and contains(self.flat, canister_id):
            return True
        # The shard that would hold the id is the last one that does not begin after it; others do not count.
        shards = [ranges for first, ranges in self.shards or () if first <= canister_id]
        return bool(shards) and contains(shards[-1], canister_id)


def flat_ranges(tree: HashTree, subnet_id: Principal) -> Ranges | None:
    """Return the ranges under ``/subnet/<id>/canister_ranges``; `None` when they are not revealed."""
    found = tree.lookup(b"subnet", subnet_id.raw, b"canister_ranges")
    return _ranges(found.value) if isinstance(found, Found) else None


def _shards(tree: HashTree, subnet_id: Principal) -> tuple[tuple[bytes, Ranges], ...] | None:
    shards = []
    for first in tree.labels(b"canister_ranges", subnet_id.raw):
        found = tree.lookup(b"canister_ranges", subnet_id.raw, first)
        if isinstance(found, Found):
            shards.append((first, _ranges(found.value)))
        elif isinstance(found, Unknown):
            shards.append((first, ()))  # it is there, so that no earlier shard may answer for its ids
    return tuple(shards) or None


def _ranges(data: Buffer) -> Ranges:
    try:
        return tuple(_pair(pair) for pair in listed(decode(data, deepest=2, most_items=_MOST_RANGE_ITEMS)))
    except CborError as error:
        raise CertificateError(
            f"canister ranges are malformed: {error}", kind="certificate_malformed", hint=NOT_USED
        ) from None


def _pair(pair: object) -> tuple[bytes, bytes]:
    match pair:
        case [memoryview() as low, memoryview() as high]:
            return bytes(low), bytes(high)
    raise CborError("a range is not a pair of ids")


class VerdictCache:
    """Remembers delegations that verified, so that their pairing is computed once. Thread-safe and bounded."""

    def __init__(self, most: int = _MOST_CACHED) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._facts: OrderedDict[tuple[bytes, bytes, bytes], SubnetFacts] = OrderedDict()

    def get(
        self, root_key: bytes, subnet_id: bytes, certificate: bytes, verified: Callable[[], SubnetFacts]
    ) -> SubnetFacts:
        """Return the facts of a delegation, from *verified* unless the very same one has verified before."""
        key = (root_key, subnet_id, hashlib.sha256(certificate).digest())
        with self._lock:
            facts = self._facts.get(key)
            if facts is not None:
                self._facts.move_to_end(key)
                return facts
        facts = verified()  # outside the lock: it takes milliseconds, and doing it twice does no harm
        with self._lock:
            self._facts[key] = facts
            while len(self._facts) > self._most:
                self._facts.popitem(last=False)
        return facts
