"""
Delegations: one key lets another sign for it, for a while and perhaps for a few canisters only.

Source:
    IC interface specification, "Authentication"; internet-computer reference, A.4. JSON form: what dfx, icp and the
    JavaScript agent write.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

import attrs

from ..errors import ConfigurationError
from ..model.ids import Principal
from ..model.json_input import check_nesting

__all__ = ["DelegationChain", "SignedDelegation", "check_delegations"]

_MOST_LINKS: Final = 20
_MOST_TARGETS: Final = 1_000
_MOST_JSON: Final = 1 << 20
_PERMISSIONS: Final = ("queries", "all")
_LAST_NS: Final = (1 << 64) - 1


@attrs.frozen(kw_only=True)
class SignedDelegation:
    """
    One link of a chain.

    Args:
        public_key: Who may sign, in DER form.
        expires_at_ns: Until when, in nanoseconds since 1970.
        targets: For which canisters; `None` for all.
        permissions: ``queries`` or ``all``; `None` when not said, which means all.
        signature: By the key before.
    """

    public_key: bytes
    expires_at_ns: int
    targets: tuple[Principal, ...] | None = None
    permissions: str | None = None
    signature: bytes = attrs.field(repr=False)

    @classmethod
    def of(cls, link: Mapping[str, Any]) -> SignedDelegation:
        """Read one link, with byte strings or hexadecimal text; raises `ValueError` and its like."""
        inner = link["delegation"]
        expiration = inner["expiration"]
        targets = inner.get("targets")
        permissions = inner.get("permissions")
        if permissions is not None and permissions not in _PERMISSIONS:
            raise ValueError("unknown permissions")
        if targets is not None and len(targets) > _MOST_TARGETS:
            raise ValueError("too many targets")
        number = int(expiration, 16) if isinstance(expiration, str) else int(expiration)
        if not 0 <= number <= _LAST_NS:
            raise ValueError("not a time")
        return cls(
            public_key=_bytes(inner["pubkey"]),
            expires_at_ns=number,
            targets=None if targets is None else tuple(_principal(target) for target in targets),
            permissions=permissions,
            signature=_bytes(link["signature"]),
        )

    def fields(self) -> dict[str, Any]:
        """Return what is signed and sent."""
        fields: dict[str, Any] = {"pubkey": self.public_key, "expiration": self.expires_at_ns}
        if self.targets is not None:
            fields["targets"] = [target.raw for target in self.targets]
        if self.permissions is not None:
            fields["permissions"] = self.permissions
        return fields


@attrs.frozen(kw_only=True)
class DelegationChain:
    """
    Links from the key of who delegates to the key that signs.

    Args:
        public_key: Of who delegates, in DER form.
        delegations: 1 to 20 links.
    """

    public_key: bytes
    delegations: tuple[SignedDelegation, ...] = attrs.field()

    @delegations.validator
    def _check_delegations(self, _attribute: object, value: tuple[SignedDelegation, ...]) -> None:
        keys = [self.public_key, *(link.public_key for link in value)]
        if not 1 <= len(value) <= _MOST_LINKS or len(set(keys)) != len(keys):
            message = f"a delegation has 1 to {_MOST_LINKS} links and no key twice; this one has {len(value)} links"
            raise ConfigurationError(message, kind="bad_delegation", hint="export the delegation again")

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """
        Read the form that dfx, icp and the JavaScript agent write.

        Raises:
            ConfigurationError: Kind ``bad_delegation``.
        """
        try:
            if len(text) > _MOST_JSON:
                raise ValueError("too long")  # noqa: TRY301 - one way out for everything malformed
            data = text.encode() if isinstance(text, str) else text
            check_nesting(data)
            value = json.loads(data)
            links = tuple(SignedDelegation.of(link) for link in value["delegations"])
            public_key = _bytes(value["publicKey"])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, ConfigurationError):
            message = "this is not a delegation in JSON form"
            hint = 'it looks like {"delegations": [{"delegation": {…}, "signature": "…"}], "publicKey": "…"}'
            raise ConfigurationError(message, kind="bad_delegation", hint=hint) from None
        return cls(public_key=public_key, delegations=links)

    @property
    def last_key(self) -> bytes:
        """The key that signs requests."""
        return self.delegations[-1].public_key

    @property
    def expires_at_ns(self) -> int:
        """When the first link expires, and the chain with it."""
        return min(link.expires_at_ns for link in self.delegations)

    @property
    def targets(self) -> frozenset[Principal] | None:
        """The canisters it is for; `None` for all."""
        allowed = [frozenset(link.targets) for link in self.delegations if link.targets is not None]
        return frozenset.intersection(*allowed) if allowed else None

    def check_at(self, now_ns: int, *, canister_id: Principal | None = None, query: bool = False) -> None:
        """
        Refuse to go on with a delegation that the network would refuse.

        Args:
            now_ns: The present moment.
            canister_id: Whom the request is for; calls to the network itself are for the management canister.
            query: Whether it is a query or a read, for which ``permissions`` are enough.

        Raises:
            ConfigurationError: Kinds ``delegation_expired``, ``delegation_target`` and ``delegation_permissions``.
        """
        check_delegations(self.delegations, now_ns=now_ns, canister_id=canister_id, query=query)


def check_delegations(
    links: Sequence[SignedDelegation], *, now_ns: int, canister_id: Principal | None = None, query: bool = False
) -> None:
    """Do what `DelegationChain.check_at` does, for the links of any identity; none at all are always fine."""
    first = min((link.expires_at_ns for link in links), default=None)
    if first is not None and first <= now_ns:
        expired = dt.datetime.fromtimestamp(first // 10**9, dt.UTC).isoformat()
        message = f"the delegation expired at {expired}"
        raise ConfigurationError(message, kind="delegation_expired", hint="sign in again to get a new one")
    if canister_id is not None and any(link.targets is not None and canister_id not in link.targets for link in links):
        message = f"the delegation is not for canister {canister_id}"
        hint = "its targets must include the canister; management calls go to aaaaa-aa"
        raise ConfigurationError(message, kind="delegation_target", hint=hint)
    if not query and any(link.permissions == "queries" for link in links):
        message = "the delegation is for queries only"
        raise ConfigurationError(message, kind="delegation_permissions", hint="ask for one with all permissions")


def _bytes(value: object) -> bytes:
    if isinstance(value, str):
        return bytes.fromhex(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise TypeError("neither bytes nor hexadecimal text")


def _principal(value: object) -> Principal:
    # Targets are hexadecimal in files; their text form always has a hyphen.
    return Principal.parse(value) if isinstance(value, str) and "-" in value else Principal(_bytes(value))
