"""
Requests as they travel: hashes of content, domain separators, signed envelopes.

Source:
    IC interface specification, "Representation-independent hashing of structured data" and "Authentication".
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs

from ..errors import CertificateError
from .cbor import SELF_DESCRIBED, Buffer, append, head
from .hash_tree import NOT_USED

if TYPE_CHECKING:
    from .identity import Identity, SignedDelegation

__all__ = [
    "IC_REQUEST",
    "IC_REQUEST_AUTH_DELEGATION",
    "IC_RESPONSE",
    "IC_STATE_ROOT",
    "Buffer",
    "SignedRequest",
    "buffers_of",
    "content_hash",
    "leb128",
    "leb128_decode",
    "leb128_signed",
    "request_id",
    "signed_request",
]

IC_REQUEST: Final = b"\x0aic-request"
IC_REQUEST_AUTH_DELEGATION: Final = b"\x1aic-request-auth-delegation"
IC_RESPONSE: Final = b"\x0bic-response"
IC_STATE_ROOT: Final = b"\x0dic-state-root"

_LARGE_BYTES: Final = 1 << 16
_MOST_LEB128_BYTES: Final = 10
"""What 64 bits need."""


def leb128(number: int) -> bytes:
    """Return *number*, which is not negative, in shortest unsigned LEB128."""
    if number < 0:
        raise ValueError("LEB128 of a negative number")
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def leb128_signed(number: int) -> bytes:
    """Return *number* in shortest signed LEB128."""
    encoded = bytearray()
    while not -64 <= number < 64:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number & 0x7F)
    return bytes(encoded)


def leb128_decode(data: Buffer) -> int:
    """Return the number of at most 64 bits that *data* is, in whole; raises `CertificateError` when it is none."""
    encoded = bytes(data[: _MOST_LEB128_BYTES + 1])
    if not encoded or len(encoded) > _MOST_LEB128_BYTES or encoded[-1] & 0x80:
        raise _bad_number()
    number = 0
    for position, byte in enumerate(encoded):
        if position < len(encoded) - 1 and not byte & 0x80:
            raise _bad_number()
        number |= (byte & 0x7F) << (7 * position)
    if number >> 64:
        raise _bad_number()
    return number


def _bad_number() -> CertificateError:
    return CertificateError("a number in a certified answer is malformed", kind="certificate_malformed", hint=NOT_USED)


def buffers_of(value: Buffer | Sequence[Buffer]) -> tuple[memoryview, ...]:
    """Return the parts of an argument or a reply that is given whole or in parts."""
    parts = (value,) if isinstance(value, (bytes, bytearray, memoryview)) else value
    return tuple(memoryview(part).cast("B") for part in parts)


def content_hash(fields: Mapping[str, Any]) -> bytes:
    """
    Return the representation-independent hash of *fields*; those that are `None` count as absent.

    Values are byte strings, texts, numbers that are not negative, and lists and maps of them.
    """
    return _hash_of_pairs([(name, _hash(value)) for name, value in fields.items() if value is not None])


def request_id(
    content: Mapping[str, Any], arg: Buffer | Sequence[Buffer] | None = None, *, arg_sha256: bytes | None = None
) -> bytes:
    """
    Return the id of a request: the hash of its content.

    Args:
        content: All fields; without ``arg`` when that is given apart.
        arg: The argument, whole or in parts; hashed part by part.
        arg_sha256: Instead of *arg*, its SHA-256: all that the id depends on.
    """
    pairs = [(name, _hash(value)) for name, value in content.items() if value is not None]
    if arg is not None:
        hasher = hashlib.sha256()
        for part in buffers_of(arg):
            hasher.update(part)
        arg_sha256 = hasher.digest()
    if arg_sha256 is not None:
        pairs.append(("arg", arg_sha256))
    return _hash_of_pairs(pairs)


def _hash_of_pairs(pairs: list[tuple[str, bytes]]) -> bytes:
    hashed = sorted(hashlib.sha256(name.encode()).digest() + value for name, value in pairs)
    return hashlib.sha256(b"".join(hashed)).digest()


def _hash(value: object) -> bytes:
    match value:
        case bytes() | bytearray() | memoryview():
            return hashlib.sha256(value).digest()
        case str():
            return hashlib.sha256(value.encode()).digest()
        case int() if not isinstance(value, bool):
            return hashlib.sha256(leb128(value)).digest()
        case list() | tuple():
            return hashlib.sha256(b"".join(map(_hash, value))).digest()
        case Mapping():
            return content_hash(value)
    raise TypeError(f"a {type(value).__name__} has no hash in a request")


@attrs.frozen(kw_only=True)
class SignedRequest:
    """
    A request ready to be sent, as often as needed.

    ``content`` is without the argument, which only the envelope holds. That is kept in parts: whoever gives a large
    argument must leave its memory as it is until the request has been answered.
    """

    content: Mapping[str, Any] = attrs.field(repr=False)
    request_id: bytes
    parts: tuple[Buffer, ...] = attrs.field(repr=False)

    @property
    def envelope(self) -> bytes:
        """All parts of the envelope in one."""
        return b"".join(self.parts)


def signed_request(content: Mapping[str, Any], identity: Identity) -> SignedRequest:
    """
    Sign *content* and put it into an envelope; what is large in the argument is not copied.

    Args:
        content: All fields of the request; ``arg``, if there is one, whole or in parts.
        identity: Who signs. ``sender`` must be its own.
    """
    plain = {name: value for name, value in content.items() if name != "arg" and value is not None}
    arg = buffers_of(content["arg"]) if content.get("arg") is not None else None
    number = request_id(plain, arg)
    parts: list[Buffer] = [SELF_DESCRIBED, b""]  # the size of the outer map comes last
    append("content", parts)
    parts.append(head(5, len(plain) + (arg is not None)))
    for name, value in plain.items():
        append(name, parts)
        append(value, parts)
    if arg is not None:
        append("arg", parts)
        parts.append(head(2, sum(part.nbytes for part in arg)))
        parts += arg
    fields: dict[str, Any] = {}
    if identity.public_key is not None:
        fields["sender_pubkey"] = identity.public_key
        fields["sender_sig"] = identity.sign(IC_REQUEST + number)
        if identity.delegations:
            fields["sender_delegation"] = [_delegation(each) for each in identity.delegations]
    for name, value in fields.items():
        append(name, parts)
        append(value, parts)
    parts[1] = head(5, 1 + len(fields))
    return SignedRequest(content=plain, request_id=number, parts=_joined(parts))


def _joined(parts: Sequence[Buffer]) -> tuple[Buffer, ...]:
    """Join neighbours unless they are large."""
    found: list[Buffer] = []
    small: list[Buffer] = []
    for part in parts:
        if len(part) <= _LARGE_BYTES:
            small.append(part)
            continue
        found += (b"".join(small), part)
        small = []
    if small:
        found.append(b"".join(small))
    return tuple(found)


def _delegation(signed: SignedDelegation) -> dict[str, Any]:
    return {"delegation": signed.fields(), "signature": signed.signature}
