"""
Certificates: what a subnet, vouched for by the root key of its network, says about its state at some moment.

Reading one does not copy the values in it: a chunk of two megabytes is hashed once and stays a view into the answer.

Source:
    IC interface specification, "Certification"; internet-computer reference, B.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Callable
from typing import Final, Self, TypeAlias

import attrs

from ..errors import CertificateError, ConfigurationError
from ..model.ids import Principal
from . import bls
from .cbor import Buffer, CborError, CborReader
from .delegations import ROOT_KEY_PREFIX, SubnetFacts, VerdictCache, root_bls_key
from .hash_tree import NOT_USED, Found, HashTree, Lookup
from .wire import IC_STATE_ROOT, leb128_decode

__all__ = ["MAINNET_ROOT_KEY", "MAX_AGE", "Certificate", "Delegation", "moment", "verify_certificate"]

MAINNET_ROOT_KEY: Final = ROOT_KEY_PREFIX + bytes.fromhex(
    "814c0e6ec71fab583b08bd81373c255c3c371b2e84863c98a4f1e08b74235d14fb5d9c0cd546d9685f913a0c0b2cc534"
    "1583bf4b4392e467db96d65b9bb4cb717112f8472e0d5a4d14505ffd7484b01291091c5f87b98883463f98091a0baaae"
)
"""The public Internet Computer's."""

MAX_AGE: Final = dt.timedelta(minutes=5)
"""How far the time of a certificate may lie from ours, either way."""
_MAX_DELEGATION_AGE: Final = dt.timedelta(days=30)
_VERDICTS: Final = VerdictCache()
"""Shared by everybody: a verdict depends on nothing but the bytes that it is kept under, root key included."""
_MOST_FIELDS: Final = 16

Verify: TypeAlias = Callable[[bytes, bytes, bytes], bool]
"""Says whether a key, a message and a signature belong together."""


@attrs.frozen(kw_only=True)
class Delegation:
    """A certificate of the root subnet about the subnet that signed."""

    subnet_id: Principal
    certificate: bytes = attrs.field(repr=False)


@attrs.frozen(kw_only=True, eq=False, slots=False)
class Certificate:
    """A certificate as read; worth nothing before `verify_certificate`."""

    tree: HashTree = attrs.field(repr=False)
    signature: bytes = attrs.field(repr=False)
    delegation: Delegation | None

    @classmethod
    def parse(cls, data: Buffer) -> Self:
        """
        Read a certificate in CBOR form; its values stay views into *data*.

        Raises:
            CertificateError: Kind ``certificate_malformed``.
        """
        try:
            return cls._read(CborReader(data))
        except (CborError, ConfigurationError) as error:
            message = f"a certificate is malformed: {error}"
            hint = "the answer was cut or changed on its way; try again, or another address of the network"
            raise CertificateError(message, kind="certificate_malformed", hint=hint) from None

    @classmethod
    def _read(cls, reader: CborReader) -> Self:
        tree: HashTree | None = None
        signature: bytes | None = None
        delegation: Delegation | None = None
        seen: set[str] = set()
        for _ in range(reader.map_size(_MOST_FIELDS)):
            name = reader.text()
            if name in seen:
                raise CborError("a name comes twice in a map")
            seen.add(name)
            if name == "tree":
                tree = HashTree.read(reader)
            elif name == "signature":
                signature = bytes(reader.byte_string())
            elif name == "delegation":
                delegation = _delegation(reader.item())
            else:
                reader.item()
        reader.end()
        if tree is None or signature is None:
            raise CborError("tree or signature is missing")
        return cls(tree=tree, signature=signature, delegation=delegation)

    @functools.cached_property
    def time_ns(self) -> int:
        """When the subnet said so, in nanoseconds since 1970; raises `CertificateError` when it is left out."""
        found = self.tree.lookup(b"time")
        if not isinstance(found, Found):
            raise CertificateError("a certificate does not tell its time", kind="certificate_path", hint=NOT_USED)
        return leb128_decode(found.value)

    @property
    def subnet_id(self) -> Principal | None:
        """Which subnet signed; `None` for the root subnet, which is known by the root key alone."""
        return None if self.delegation is None else self.delegation.subnet_id

    def lookup(self, *path: bytes) -> Lookup:
        """Say what is under *path*; raises `CertificateError` (``certificate_path``) where a subtree is."""
        return self.tree.lookup(*path)


def _delegation(value: object) -> Delegation | None:
    match value:
        case None:
            return None
        case {"subnet_id": memoryview() as subnet_id, "certificate": memoryview() as certificate}:
            return Delegation(subnet_id=Principal(bytes(subnet_id)), certificate=bytes(certificate))
    raise CborError("its delegation is malformed")


def verify_certificate(  # noqa: PLR0913 - what to verify, and with what
    certificate: Certificate,
    *,
    root_key: bytes,
    effective_canister_id: Principal | None,
    now_ns: int | None,
    max_age: dt.timedelta = MAX_AGE,
    verify: Verify | None = None,
) -> None:
    """
    Return if *certificate* is genuine, fresh, and from the subnet that answers for the canister.

    Args:
        certificate: What to verify.
        root_key: Of the network, in DER form.
        effective_canister_id: The canister that the answer is about; `None` when it is about the subnet itself.
        now_ns: The present moment; `None` to check evidence of long ago, whose age does not matter.
        max_age: How far the certificate's time may lie from *now_ns*, either way.
        verify: Says whether key, message and signature belong together, for those who verify several at once;
            `bls.verify` when `None`.

    Raises:
        CertificateError: Kinds ``certificate_signature``, ``certificate_delegation``, ``certificate_range``,
            ``certificate_time``, ``certificate_path`` (it tells no time), ``certificate_malformed``.
        ConfigurationError: Kind ``bad_root_key``.
    """
    key = root_bls_key(root_key)
    facts = None
    if certificate.delegation is not None:
        facts = _delegated(certificate.delegation, root_key)
        key = facts.public_key
    _check_signature(certificate, key, verify=verify)
    if facts is not None and effective_canister_id is not None and not facts.covers(effective_canister_id.raw):
        raise _wrong_subnet(facts, effective_canister_id)
    time_ns = certificate.time_ns
    if now_ns is not None:
        _check_time(time_ns, now_ns, max_age, "certificate")
        if facts is not None:
            _check_time(facts.time_ns, now_ns, max(_MAX_DELEGATION_AGE, max_age), "delegation", future=max_age)


def _delegated(delegation: Delegation, root_key: bytes) -> SubnetFacts:
    def verified() -> SubnetFacts:
        inner = Certificate.parse(delegation.certificate)
        if inner.delegation is not None:
            message = f"the delegation to subnet {delegation.subnet_id} rests on another delegation"
            hint = "only the root subnet delegates; whoever answered is not a node of this network"
            raise CertificateError(message, kind="certificate_delegation", hint=hint)
        _check_signature(inner, root_bls_key(root_key), delegated_to=delegation.subnet_id)
        return SubnetFacts.read(delegation.subnet_id, inner.tree, inner.time_ns)

    return _VERDICTS.get(root_key, delegation.subnet_id.raw, delegation.certificate, verified)


def _check_signature(
    certificate: Certificate, key: bytes, *, delegated_to: Principal | None = None, verify: Verify | None = None
) -> None:
    kind = "certificate_signature" if delegated_to is None else "certificate_delegation"
    what = "the certificate" if delegated_to is None else f"the delegation to subnet {delegated_to}"
    if len(certificate.signature) != bls.SIGNATURE_BYTES:
        message = f"the signature of {what} is {len(certificate.signature)} bytes, not {bls.SIGNATURE_BYTES}"
        raise CertificateError(message, kind=kind, hint=NOT_USED)
    if not (verify or bls.verify)(key, IC_STATE_ROOT + certificate.tree.root_hash, certificate.signature):
        message = f"{what} is not signed by the expected key"
        hint = "it was changed on its way, or it is of another network than the root key"
        raise CertificateError(message, kind=kind, hint=hint)


def _wrong_subnet(facts: SubnetFacts, canister_id: Principal) -> CertificateError:
    subnet = str(facts.subnet_id)
    if facts.flat is None and facts.shards is None:
        message = f"the delegation to subnet {subnet} does not tell its canisters"
    else:
        message = f"subnet {subnet} answered for canister {canister_id}, which is not one of its own"
    hint = "the request went to a wrong or misbehaving node; if the canister was just migrated, try again in a minute"
    return CertificateError(
        message, kind="certificate_range", hint=hint, subnet_id=subnet, canister_id=str(canister_id)
    )


def _check_time(
    time_ns: int, now_ns: int, max_age: dt.timedelta, what: str, *, future: dt.timedelta | None = None
) -> None:
    seconds = (now_ns - time_ns) / 10**9
    latest = max_age if future is None else future
    if -latest.total_seconds() <= seconds <= max_age.total_seconds():
        return
    facts = {"certified_at": _text(time_ns), "now": _text(now_ns)}
    if seconds > 0:
        message = f"the {what} is too old: of {_text(time_ns)}, and now is {_text(now_ns)} ({_span(seconds)} later)"
        hint = "the node lags behind or replays an old answer, or this machine's clock is ahead; compare the clocks"
    else:
        times = f"of {_text(time_ns)}, and now is {_text(now_ns)} ({_span(-seconds)} earlier)"
        message = f"the {what} is from the future: {times}"
        hint = "set this machine's clock, which is most likely slow"
    raise CertificateError(message, kind="certificate_time", hint=hint, too_old=seconds > 0, **facts)


def moment(time_ns: int) -> dt.datetime:
    """Return a time of 64 bits, cut to microseconds."""
    return dt.datetime.fromtimestamp(time_ns // 10**9, dt.UTC).replace(microsecond=time_ns % 10**9 // 1000)


def _text(time_ns: int) -> str:
    return moment(time_ns).isoformat(timespec="seconds")


def _span(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
