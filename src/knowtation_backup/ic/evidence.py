"""
Evidence: small records that prove, years later and offline, what a subnet answered to which question.

A record keeps the certificate of a reply, pruned to what the proof needs; the reply itself is stored elsewhere and is
given to the check. The question is proved as well: its id is computed again from all its fields and its argument.

Form of a record, in CBOR::

    [1, sender, nonce or null, ingress expiry, canister id, method name, effective canister id,
     certificate (pruned tree and signature), delegation or null]

Principals are byte strings. The delegation is ``[subnet id, certificate]``, or a number where thousands of records
share one, kept apart in a `DelegationBook`: ``[[subnet id, certificate], …]``.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Self

import attrs

from ..errors import CertificateError, ConfigurationError
from ..model.ids import MANAGEMENT_CANISTER, Principal
from .cbor import Buffer, CborError, append, decode, encode, head, listed
from .certificate import Certificate, Delegation, moment, verify_certificate
from .hash_tree import NOT_USED, Found, leaf_digest
from .wire import buffers_of, request_id

__all__ = ["CallEvidence", "CertifiedReply", "DelegationBook"]

_VERSION: Final = 1
_REQUEST_STATUS: Final = b"request_status"
_LONGEST_HEADER: Final = 4_096
"""How much of an argument is searched for the canister that it names."""
_MOST_RECORD_BYTES: Final = 1 << 20


@attrs.frozen(kw_only=True, eq=False)
class CertifiedReply:
    """
    The verified reply to a call.

    Args:
        reply: Candid, as a view into the answer.
        certificate: Which proves it.
        content: What was asked: all fields of the request but the argument.
        request_id: Of that request, argument included.
        effective_canister_id: The canister that the call was about, whose subnet answered.
    """

    reply: memoryview = attrs.field(repr=False)
    certificate: Certificate = attrs.field(repr=False)
    content: Mapping[str, Any] = attrs.field(repr=False)
    request_id: bytes
    effective_canister_id: Principal

    @property
    def time_ns(self) -> int:
        """When the subnet certified the reply, in nanoseconds since 1970."""
        return self.certificate.time_ns


class DelegationBook:
    """The delegations that records refer to by number. Not thread-safe: it belongs to one writer or reader."""

    def __init__(self, delegations: Iterable[Delegation] = ()) -> None:
        self._delegations: list[Delegation] = []
        self._numbers: dict[Delegation, int] = {}
        for delegation in delegations:
            self.number_of(delegation)

    def __len__(self) -> int:
        return len(self._delegations)

    def number_of(self, delegation: Delegation) -> int:
        """Return the number of a delegation, which is noted down if it is new."""
        number = self._numbers.setdefault(delegation, len(self._delegations))
        if number == len(self._delegations):
            self._delegations.append(delegation)
        return number

    def delegation(self, number: int) -> Delegation:
        """Return a delegation by its number; raises `CertificateError` when there is none."""
        if not 0 <= number < len(self._delegations):
            raise _malformed(f"it refers to delegation {number}, and {len(self._delegations)} are known")
        return self._delegations[number]

    def to_cbor(self) -> bytes:
        """Return all delegations, in the order of their numbers."""
        return encode([[each.subnet_id.raw, each.certificate] for each in self._delegations])

    @classmethod
    def from_cbor(cls, data: Buffer) -> Self:
        """Read what `to_cbor` returned; raises `CertificateError`."""
        book = cls()
        try:
            for pair in listed(decode(data)):
                match pair:
                    case [memoryview() as subnet_id, memoryview() as certificate]:
                        subnet = Principal(bytes(subnet_id))
                        book.number_of(Delegation(subnet_id=subnet, certificate=bytes(certificate)))
                    case _:
                        raise _malformed("a delegation is not a pair")
        except (CborError, ConfigurationError) as error:
            raise _malformed(str(error)) from None
        if book.to_cbor() != data:
            raise _malformed("a delegation is in it twice")
        return book


@attrs.frozen(kw_only=True)
class CallEvidence:
    """
    Proof of one reply to one call.

    Args:
        sender: Who asked.
        nonce: Of the request; `None` when it had none.
        ingress_expiry_ns: Of the request.
        canister_id: Who was asked.
        method_name: What was asked.
        effective_canister_id: The canister that the call was about.
        certificate: Pruned tree and signature, in CBOR form.
        delegation: To the subnet that signed; `None` when that is the root subnet.
    """

    sender: Principal
    nonce: bytes | None
    ingress_expiry_ns: int
    canister_id: Principal
    method_name: str
    effective_canister_id: Principal
    certificate: bytes = attrs.field(repr=False)
    delegation: Delegation | None = attrs.field(repr=False)

    @classmethod
    def of(cls, reply: CertifiedReply) -> Self:
        """Return the evidence of a verified reply, a few hundred bytes that do not refer to the answer any more."""
        content, certificate = reply.content, reply.certificate
        below = (_REQUEST_STATUS, reply.request_id)
        tree = certificate.tree.pruned([(b"time",), (*below, b"status")], labels_only=[(*below, b"reply")])
        parts: list[Buffer] = [head(5, 2)]
        append("tree", parts)
        tree.encoded_parts(parts)
        append("signature", parts)
        append(certificate.signature, parts)
        nonce = content.get("nonce")
        return cls(
            sender=Principal(bytes(content["sender"])),
            nonce=None if nonce is None else bytes(nonce),
            ingress_expiry_ns=int(content["ingress_expiry"]),
            canister_id=Principal(bytes(content["canister_id"])),
            method_name=str(content["method_name"]),
            effective_canister_id=reply.effective_canister_id,
            certificate=b"".join(parts),
            delegation=certificate.delegation,
        )

    def check(
        self,
        *,
        arg: Buffer | Sequence[Buffer] | None = None,
        arg_sha256: bytes | None = None,
        reply: Buffer | Sequence[Buffer],
        root_key: bytes,
    ) -> dt.datetime:
        """
        Return when the subnet certified that *reply* is the answer to this call with *arg*.

        Pure and offline: no clock, no network. It fails when anything at all was changed.

        Args:
            arg: The argument of the call, whole or in parts.
            arg_sha256: Instead of *arg*, the SHA-256 of one that is not known in full because it holds a secret.
            reply: The reply, whole or in parts.
            root_key: Of the network, in DER form.

        Raises:
            CertificateError: Kinds of `verify_certificate`, and ``evidence_question`` (the record is not about this
                call) or ``evidence_reply`` (the subnet certified another reply).
        """
        arguments = None if arg is None else buffers_of(arg)
        self._check_routing(arguments or ())
        certificate = self._read_certificate()
        verify_certificate(
            certificate, root_key=root_key, effective_canister_id=self.effective_canister_id, now_ns=None
        )
        below = (_REQUEST_STATUS, request_id(self._content(), arguments, arg_sha256=arg_sha256))
        status = certificate.lookup(*below, b"status")
        if not isinstance(status, Found):
            message = f"the evidence is not about this call of {self.method_name!r}"
            hint = "the argument, or a field of the record, is not what was sent"
            raise CertificateError(message, kind="evidence_question", hint=hint)
        if bytes(status.value) != b"replied":
            raise CertificateError("the evidence is about a call without reply", kind="evidence_reply", hint=NOT_USED)
        if certificate.tree.digest_at(*below, b"reply") != leaf_digest(buffers_of(reply)):
            message = f"the reply to {self.method_name!r} is not the one that the subnet certified"
            hint = "the stored bytes were changed or belong to another record"
            raise CertificateError(message, kind="evidence_reply", hint=hint)
        return moment(certificate.time_ns)

    def to_cbor(self, shared: DelegationBook | None = None) -> bytes:
        """
        Return the record as bytes.

        Args:
            shared: Where the delegation is noted down, once for all records; without it, it is part of the record.
        """
        return encode(self._fields(shared))

    @classmethod
    def from_cbor(cls, data: Buffer, shared: DelegationBook | None = None) -> Self:
        """
        Read what `to_cbor` returned.

        Raises:
            CertificateError: Kind ``certificate_malformed``: it is no record, or not in the only form that there is.
        """
        if len(data) > _MOST_RECORD_BYTES:
            raise _malformed("it is larger than any genuine one")
        try:
            record = cls._read(decode(data), shared)
        except (CborError, ConfigurationError) as error:
            raise _malformed(str(error)) from None
        # One form for each record: nothing can be changed in the bytes without changing what they mean.
        if record.to_cbor(shared) != data:
            raise _malformed("it is not in canonical form")
        return record

    def _fields(self, shared: DelegationBook | None) -> list[object]:
        delegation: object = None
        if self.delegation is not None and shared is not None:
            delegation = shared.number_of(self.delegation)
        elif self.delegation is not None:
            delegation = [self.delegation.subnet_id.raw, self.delegation.certificate]
        return [
            _VERSION,
            self.sender.raw,
            self.nonce,
            self.ingress_expiry_ns,
            self.canister_id.raw,
            self.method_name,
            self.effective_canister_id.raw,
            self.certificate,
            delegation,
        ]

    @classmethod
    def _read(cls, fields: object, shared: DelegationBook | None) -> Self:
        match fields:
            case [
                int(version),
                memoryview() as sender,
                (memoryview() | None) as nonce,
                int(expiry),
                memoryview() as canister_id,
                str(method_name),
                memoryview() as effective_id,
                memoryview() as certificate,
                delegation,
            ] if version == _VERSION and not isinstance(expiry, bool):
                return cls(
                    sender=Principal(bytes(sender)),
                    nonce=None if nonce is None else bytes(nonce),
                    ingress_expiry_ns=expiry,
                    canister_id=Principal(bytes(canister_id)),
                    method_name=method_name,
                    effective_canister_id=Principal(bytes(effective_id)),
                    certificate=bytes(certificate),
                    delegation=_delegation(delegation, shared),
                )
            case [int(version), *_] if version != _VERSION:
                raise _malformed(f"it is of version {version}; this release reads version {_VERSION}")
        raise CborError("its fields are not those of a record")

    def _content(self) -> dict[str, Any]:
        return {
            "request_type": "call",
            "sender": self.sender.raw,
            "nonce": self.nonce,
            "ingress_expiry": self.ingress_expiry_ns,
            "canister_id": self.canister_id.raw,
            "method_name": self.method_name,
        }

    def _check_routing(self, arg: Sequence[memoryview]) -> None:
        """Compare the effective canister with the question: no signature covers it, but the question names it."""
        named = self.canister_id == self.effective_canister_id
        if self.canister_id == MANAGEMENT_CANISTER:
            start = b"".join(bytes(part[:_LONGEST_HEADER]) for part in arg[:2])
            raw = self.effective_canister_id.raw
            named = b"\x01" + bytes((len(raw),)) + raw in start
        if not named:
            message = f"the evidence is said to be about canister {self.effective_canister_id}, the question is not"
            raise CertificateError(message, kind="evidence_question", hint=NOT_USED)

    def _read_certificate(self) -> Certificate:
        bare = Certificate.parse(self.certificate)
        if bare.delegation is not None:
            raise _malformed("its certificate holds a delegation of its own")
        return attrs.evolve(bare, delegation=self.delegation)


def _delegation(value: object, shared: DelegationBook | None) -> Delegation | None:
    match value:
        case None:
            return None
        case int(number) if shared is not None:
            return shared.delegation(number)
        case [memoryview() as subnet_id, memoryview() as certificate] if shared is None:
            return Delegation(subnet_id=Principal(bytes(subnet_id)), certificate=bytes(certificate))
    raise CborError("its delegation is malformed")


def _malformed(why: str) -> CertificateError:
    return CertificateError(f"a record of evidence is malformed: {why}", kind="certificate_malformed", hint=NOT_USED)
