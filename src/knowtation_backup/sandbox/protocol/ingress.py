"""
Requests of users: reading the envelope, the request id, and whether the sender may speak.

An envelope is a CBOR map of ``content``, ``sender_pubkey``, ``sender_sig`` and ``sender_delegation``. The request id is
the representation-independent hash of the content; the signature covers ``0a ic-request`` and that id.

Source:
    IC interface specification, "Authentication" and "Request ids"; texts follow the replica's ``ic-validator``
    (internet-computer reference, A.2 to A.5, A.10).
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from .. import principal
from ..messages import ANONYMOUS
from .cbor import decode
from .crypto import DELEGATION, REQUEST, UnsupportedKeyError, UserKey, self_authenticating

__all__ = [
    "MAX_INGRESS_BYTES",
    "Content",
    "Envelope",
    "IngressError",
    "authorize",
    "check_target",
    "hash_of_map",
    "read_envelope",
]

MAX_INGRESS_BYTES: Final = 2 * 1024 * 1024
_MAX_TTL_NS: Final = (5 * 60 + 30) * 1_000_000_000
_MAX_DELEGATIONS: Final = 20
_MAX_TARGETS: Final = 1000
_MAX_PATHS: Final = 1000
_MAX_LABELS: Final = 127
_U64: Final = 1 << 64

_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "call": ("canister_id", "method_name", "arg"),
    "query": ("canister_id", "method_name", "arg"),
    "read_state": ("paths",),
}


@attrs.frozen
class IngressError(Exception):
    """An HTTP refusal of a request: status and plain text."""

    status: int
    text: str


@attrs.frozen(kw_only=True)
class Content:
    """What a user asks for. Fields that the request type does not have are empty."""

    request_type: str
    sender: bytes
    ingress_expiry: int
    """Nanoseconds since the epoch."""
    nonce: bytes | None = None
    canister_id: bytes = b""
    method_name: str = ""
    arg: bytes = attrs.field(default=b"", repr=False)
    paths: tuple[tuple[bytes, ...], ...] = ()
    request_id: bytes


@attrs.frozen(kw_only=True)
class _Delegation:
    pubkey: bytes
    expiration: int
    targets: frozenset[bytes] | None
    permissions: str | None
    digest: bytes
    signature: bytes = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class Envelope:
    """A decoded envelope, not yet authenticated."""

    content: Content
    public_key: bytes | None
    signature: bytes | None = attrs.field(repr=False)
    delegations: tuple[_Delegation, ...]


def _leb128(value: int) -> bytes:
    encoded = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        encoded.append(low | (0x80 if value else 0))
        if not value:
            return bytes(encoded)


def _hash(value: Any) -> bytes:
    if isinstance(value, str):
        return hashlib.sha256(value.encode()).digest()
    if isinstance(value, bytes | bytearray | memoryview):
        return hashlib.sha256(value).digest()
    if isinstance(value, int):
        return hashlib.sha256(_leb128(value)).digest()
    if isinstance(value, Mapping):
        return hash_of_map(value)
    return hashlib.sha256(b"".join(_hash(item) for item in value)).digest()


# The names are those of the interface, and the same in every request.
@functools.lru_cache(maxsize=64)
def _hash_of_name(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def hash_of_map(fields: Mapping[str, Any]) -> bytes:
    """
    Return the representation-independent hash of a map of bytes, text, naturals, sequences and maps.

    Fields that are `None` count as absent.
    """
    hashed = [_hash_of_name(name) + _hash(value) for name, value in fields.items() if value is not None]
    return hashlib.sha256(b"".join(sorted(hashed))).digest()


def _malformed(what: str) -> IngressError:
    return IngressError(400, f"Failed to deserialize cbor request: {what}")


def _take(fields: Mapping[Any, Any], name: str, kind: type, *, optional: bool = False) -> Any:
    value: Any = fields.get(name)
    if value is None and optional:
        return None
    if not isinstance(value, kind) or isinstance(value, bool):
        problem = f"missing field `{name}`" if value is None else f"invalid type for field `{name}`"
        raise _malformed(problem)
    if isinstance(value, int) and not 0 <= value < _U64:
        problem = f"field `{name}` is not a 64-bit natural"
        raise _malformed(problem)
    return value


def _principal(fields: Mapping[Any, Any], name: str) -> bytes:
    value: bytes = _take(fields, name, bytes)
    if len(value) > 29:
        problem = f"field `{name}` is longer than a principal"
        raise _malformed(problem)
    return value


def read_envelope(body: bytes, *, request_type: str) -> Envelope:
    """
    Decode an envelope that must hold a *request_type* (``call``, ``query`` or ``read_state``).

    Tagged and untagged CBOR are accepted, and signature fields that are absent or ``null``.

    Raises:
        IngressError: 400, when the envelope is not of the interface's form.
    """
    try:
        decoded = decode(body)
    except ValueError as error:
        raise _malformed(str(error)) from error
    if not isinstance(decoded, dict):
        problem = "an envelope must be a map"
        raise _malformed(problem)
    content = _content(_take(decoded, "content", dict), request_type)
    return Envelope(
        content=content,
        public_key=_take(decoded, "sender_pubkey", bytes, optional=True),
        signature=_take(decoded, "sender_sig", bytes, optional=True),
        delegations=tuple(map(_delegation, _take(decoded, "sender_delegation", list, optional=True) or ())),
    )


def _content(fields: Mapping[Any, Any], request_type: str) -> Content:
    given = _take(fields, "request_type", str)
    if given != request_type:
        problem = f"unknown variant `{given}`, expected `{request_type}`"
        raise _malformed(problem)
    nonce = _take(fields, "nonce", bytes, optional=True)
    if nonce is not None and len(nonce) > 32:
        problem = "field `nonce` is longer than 32 bytes"
        raise _malformed(problem)
    if fields.get("sender_info") is not None:
        # Needs canister signatures; accepting it unverified would let anyone claim any information.
        raise IngressError(400, "Invalid sender info: sender_info is not verified by the sandbox network")
    common: dict[str, Any] = {
        "request_type": given,
        "sender": _principal(fields, "sender"),
        "ingress_expiry": _take(fields, "ingress_expiry", int),
        "nonce": nonce,
    }
    own: dict[str, Any]
    if request_type == "read_state":
        own = {"paths": _paths(_take(fields, "paths", list))}
    else:
        own = {
            "canister_id": _principal(fields, "canister_id"),
            "method_name": _take(fields, "method_name", str),
            "arg": _take(fields, "arg", bytes),
        }
    return Content(**common, **own, request_id=hash_of_map(common | own))


def _paths(given: Sequence[Any]) -> tuple[tuple[bytes, ...], ...]:
    if len(given) > _MAX_PATHS:
        problem = f"more than {_MAX_PATHS} paths"
        raise _malformed(problem)
    for path in given:
        if not isinstance(path, list) or len(path) > _MAX_LABELS or not all(isinstance(x, bytes) for x in path):
            problem = f"every path must be an array of at most {_MAX_LABELS} byte strings"
            raise _malformed(problem)
    return tuple(map(tuple, given))


def _delegation(signed: Any) -> _Delegation:
    if not isinstance(signed, dict):
        problem = "a signed delegation must be a map"
        raise _malformed(problem)
    fields = _take(signed, "delegation", dict)
    targets = _take(fields, "targets", list, optional=True)
    if targets is not None and not all(isinstance(target, bytes) for target in targets):
        problem = "delegation targets must be byte strings"
        raise _malformed(problem)
    known = {
        "pubkey": _take(fields, "pubkey", bytes),
        "expiration": _take(fields, "expiration", int),
        "targets": targets,
        "permissions": _take(fields, "permissions", str, optional=True),
    }
    return _Delegation(
        pubkey=known["pubkey"],
        expiration=known["expiration"],
        targets=None if targets is None else frozenset(targets),
        permissions=known["permissions"],
        digest=hash_of_map(known),
        signature=_take(signed, "signature", bytes),
    )


def authorize(envelope: Envelope, *, now_ns: int) -> frozenset[bytes] | None:
    """
    Check expiry, sender, delegations and signature of *envelope* at sandbox time *now_ns*.

    Returns:
        The canisters the delegations restrict the sender to, or `None` for all.

    Raises:
        IngressError: 400, with the network's text.
    """
    content = envelope.content
    anonymous = content.sender == ANONYMOUS
    if not (anonymous and content.request_type != "call"):
        _check_expiry(content.ingress_expiry, now_ns)
    if envelope.public_key is None or envelope.signature is None:
        if envelope.public_key is not None or envelope.signature is not None:
            raise IngressError(400, "Malformed request: sender_pubkey and sender_sig must be given together")
        if not anonymous:
            raise IngressError(400, f"Missing signature from user: {principal.to_text(content.sender)}")
        return None
    if anonymous:
        raise IngressError(400, "Signature is not allowed for the anonymous user")
    if self_authenticating(envelope.public_key) != content.sender:
        sender = principal.to_text(content.sender)
        raise IngressError(400, f"The user id {sender} does not match the public key {envelope.public_key.hex()}")
    key, targets = _follow_delegations(envelope, envelope.public_key, now_ns)
    _verify(key, REQUEST + content.request_id, envelope.signature, "Invalid signature")
    return targets


def check_target(targets: frozenset[bytes] | None, canister_id: bytes) -> None:
    """
    Refuse a canister that the sender's delegations do not reach.

    Raises:
        IngressError: 400.
    """
    if targets is not None and canister_id not in targets:
        raise IngressError(400, f"Canister {principal.to_text(canister_id)} is not one of the delegation targets")


def _check_expiry(expiry_ns: int, now_ns: int) -> None:
    if not now_ns <= expiry_ns <= now_ns + _MAX_TTL_NS:
        # The JS agent looks for "Invalid request expiry: " and then synchronises its clock.
        raise IngressError(
            400,
            "Invalid request expiry: Specified ingress_expiry not within expected range: "
            f"Minimum allowed expiry: {_moment(now_ns)}, "
            f"Maximum allowed expiry: {_moment(now_ns + _MAX_TTL_NS)}, "
            f"Provided expiry: {_moment(expiry_ns)}",
        )


def _moment(nanos: int) -> str:
    seconds, fraction = divmod(nanos, 1_000_000_000)
    try:
        moment = dt.datetime.fromtimestamp(seconds, tz=dt.UTC)
    except (OverflowError, ValueError, OSError):
        return f"{nanos} ns"
    return f"{moment:%Y-%m-%d %H:%M:%S}.{fraction:09d} UTC"


def _follow_delegations(envelope: Envelope, root_key: bytes, now_ns: int) -> tuple[bytes, frozenset[bytes] | None]:
    """Verify the chain and return the key that signs the request, and the targets all delegations have in common."""
    if len(envelope.delegations) > _MAX_DELEGATIONS:
        raise IngressError(
            400,
            f"Invalid delegation: Chain of delegations is too long: got {len(envelope.delegations)} delegations, "
            f"but at most {_MAX_DELEGATIONS} are allowed",
        )
    for delegation in envelope.delegations:
        if delegation.expiration < now_ns:
            raise IngressError(
                400,
                "Invalid delegation expiry: Specified sender delegation has expired: "
                f"Provided expiry: {_moment(delegation.expiration)}, Local time: {_moment(now_ns)}",
            )
    key, seen = root_key, {root_key}
    targets: frozenset[bytes] | None = None
    for delegation in envelope.delegations:
        if delegation.pubkey in seen:
            raise IngressError(
                400,
                "Invalid delegation: Chain of delegations contains at least one cycle: "
                f"first repeating public key encountered {delegation.pubkey.hex()}",
            )
        seen.add(delegation.pubkey)
        _verify(key, DELEGATION + delegation.digest, delegation.signature, "Invalid delegation")
        _check_permissions(delegation, envelope.content.request_type)
        targets = _restrict(targets, delegation.targets)
        key = delegation.pubkey
    return key, targets


def _check_permissions(delegation: _Delegation, request_type: str) -> None:
    if delegation.permissions not in (None, "all", "queries"):
        raise IngressError(400, f"Invalid delegation: unknown permissions {delegation.permissions!r}")
    if delegation.permissions == "queries" and request_type == "call":
        raise IngressError(400, "Invalid delegation: the delegation permits only queries, not calls")


def _restrict(targets: frozenset[bytes] | None, more: frozenset[bytes] | None) -> frozenset[bytes] | None:
    if more is None:
        return targets
    if len(more) > _MAX_TARGETS:
        raise IngressError(
            400,
            f"Invalid delegation: expected at most {_MAX_TARGETS} targets per delegation, but got {len(more)}",
        )
    return more if targets is None else targets & more


def _verify(der_key: bytes, message: bytes, signature: bytes, prefix: str) -> None:
    try:
        good = UserKey(der_key).verifies(message, signature)
    except UnsupportedKeyError as error:
        raise IngressError(400, f"{prefix}: {error}") from error
    if not good:
        raise IngressError(
            400, f"{prefix}: Invalid basic signature: signature could not be verified: public key {der_key.hex()}"
        )
