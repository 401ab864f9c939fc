"""
Fills a sandbox hub with generated tenants: the same plan plants the same data, byte for byte.

Planting goes past the HTTP interface (controllers' Candid methods) and takes seconds for thousands of notes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

import attrs

from ..._checks import at_least
from .seed_showcase import showcase_vaults
from .seed_texts import DEFAULT_VAULT, GeneratedTexts, Note, Proposal, Vault

if TYPE_CHECKING:
    from .deployment import SandboxHub

__all__ = ["Note", "Proposal", "SeedPlan", "SeedReport", "Vault", "seed"]

_MESSAGE_BYTES: Final = 1_000_000
"""Text per seeding message; an ingress message holds 2 MiB."""
_IDS_PER_MESSAGE: Final = 10_000
_REPLY_BYTES: Final = 3 << 20
"""A query's reply, Candid framing included (internet-computer reference, D.2)."""


@attrs.frozen(kw_only=True)
class SeedPlan:
    """
    What to plant: regular tenants by numbers, and others vault by vault.

    Regular tenants are ``google:100000``, ``google:100001``, …; the first vault of each is ``default``.
    """

    tenants: int = attrs.field(default=0, validator=at_least(0))
    vaults: int = attrs.field(default=1, validator=at_least(1))
    """Per tenant."""
    notes: int = attrs.field(default=3, validator=at_least(0))
    """Per vault."""
    proposals: int = attrs.field(default=2, validator=at_least(0))
    """Per vault."""
    body_size_bytes: int = attrs.field(default=600, validator=at_least(0))
    """Mean size of a body; sizes spread evenly from half to one and a half of it."""
    seed: int = 0
    copied_notes: bool = False
    """All regular tenants get the notes of the first, which the hub then keeps once: gigabytes in little memory."""
    others: tuple[Vault, ...] = attrs.field(default=(), repr=False)

    @classmethod
    def many_tenants(cls, tenants: int = 1_000, *, proposals: int = 2, seed: int = 0) -> SeedPlan:
        """Return a plan of many small tenants with one vault each."""
        return cls(tenants=tenants, proposals=proposals, seed=seed)

    @classmethod
    def large(cls, size_bytes: int, *, vault_size_bytes: int = 2_000_000, seed: int = 0) -> SeedPlan:
        """
        Return a plan whose bodies add up to about *size_bytes*, in tenants with one vault and one proposal.

        Beyond about 2.7 MB a vault can no longer be exported: the reply, escapes included, holds 3 MiB.
        """
        body_size_bytes = 20_000
        notes = max(1, vault_size_bytes // body_size_bytes)
        tenants = max(1, round(size_bytes / (notes * body_size_bytes)))
        return cls(
            tenants=tenants, notes=notes, proposals=1, body_size_bytes=body_size_bytes, seed=seed, copied_notes=True
        )

    @classmethod
    def showcase(cls, *, oversized: bool = True, seed: int = 0) -> SeedPlan:
        """
        Return a plan with everything that makes a hub hard to export; see `seed_showcase`.

        Args:
            oversized: With a vault whose export reply is too large for the network, so that reading it fails.
            seed: Of the generated texts.
        """
        return cls(
            tenants=3,
            vaults=3,
            notes=300,
            proposals=5,
            body_size_bytes=500,
            seed=seed,
            others=showcase_vaults(oversized=oversized, seed=seed),
        )

    def user_ids(self) -> list[str]:
        """Return the ids of the regular tenants."""
        return [f"google:{100_000 + index}" for index in range(self.tenants)]

    def contents(self) -> Iterator[Vault]:
        """Yield every vault of the plan, in the order of planting; one tenant's texts are in memory at a time."""
        first: tuple[Vault, ...] = ()
        for index, user_id in enumerate(self.user_ids()):
            vaults = tuple(self._regular_vaults(index, user_id))
            if self.copied_notes:
                first = first or vaults
                vaults = tuple(
                    attrs.evolve(vault, notes=source.notes) for vault, source in zip(vaults, first, strict=True)
                )
            yield from vaults
        yield from self.others

    def vault_ids(self) -> list[str]:
        """Return the ids of every regular tenant's vaults."""
        return [DEFAULT_VAULT, *(f"vault-{number}" for number in range(1, self.vaults))]

    def _regular_vaults(self, index: int, user_id: str) -> Iterator[Vault]:
        texts = GeneratedTexts(self.seed * 1_000_003 + index)
        notes = 0 if self.copied_notes and index else self.notes
        for number, vault_id in enumerate(self.vault_ids()):
            serial = (index * self.vaults + number) * self.proposals
            yield Vault(
                user_id=user_id,
                vault_id=vault_id,
                notes=tuple(texts.note(place, self.body_size_bytes) for place in range(notes)),
                proposals=tuple(texts.proposal(serial + place, vault_id) for place in range(self.proposals)),
                create=True,
            )


@attrs.frozen(kw_only=True)
class SeedReport:
    """What a plan planted, for comparison with what an export finds."""

    user_ids: tuple[str, ...] = attrs.field(repr=False)
    """Tenants the operator index lists, in its order."""
    hidden_user_ids: tuple[str, ...]
    """Tenants that have only proposals, which no index lists."""
    hidden_vault_ids: tuple[str, ...]
    """Vaults that have only proposals, which no vault list shows, whichever tenant's."""
    vaults: int
    """Vaults that vault lists show."""
    notes: int
    proposals: int
    """
    Those a client can read, in hidden tenants and vaults too. Of several with one id in one vault the hub returns one.
    """
    body_size_bytes: int
    """Bodies of notes as UTF-8."""
    malformed: tuple[tuple[str, str, str], ...]
    """Tenant, vault and id of the proposals whose reply is malformed JSON."""
    oversized: tuple[tuple[str, str], ...]
    """Tenant and vault whose notes do not fit one reply."""


def seed(hub: SandboxHub, plan: SeedPlan) -> SeedReport:
    """Plant *plan* in *hub*, next to what is there, holding one tenant's texts in memory at a time."""
    tally = _Tally()
    for message in _messages(_planted(plan, tally)):
        hub.seed_vaults(message)
    if plan.copied_notes:
        first, *others = plan.user_ids() or [""]
        for vault_id in plan.vault_ids():
            for start in range(0, len(others), _IDS_PER_MESSAGE):
                hub.seed_copies(first, vault_id, others[start : start + _IDS_PER_MESSAGE])
    return tally.report()


def _planted(plan: SeedPlan, tally: _Tally) -> Iterator[Vault]:
    """Yield what has to be sent: all but notes that are copied."""
    copies: set[str] = set(plan.user_ids()[1:]) if plan.copied_notes else set()
    for vault in plan.contents():
        tally.add(vault)
        yield attrs.evolve(vault, notes=()) if vault.user_id in copies else vault


def _messages(vaults: Iterable[Vault]) -> Iterator[list[dict[str, Any]]]:
    """Cut what is to be planted into messages of about 1 MB; a vault may spread over several."""
    message: list[dict[str, Any]] = []
    size = 0
    for vault in vaults:
        entry = _entry(vault)
        message.append(entry)
        size += 100  # roughly what an entry without content takes
        for key, items in (("notes", vault.notes), ("proposals", vault.proposals)):
            for item in items:
                fields = attrs.asdict(item)
                length = sum(len(text.encode()) for text in fields.values() if text)
                if size and size + length > _MESSAGE_BYTES:
                    yield message
                    entry = _entry(vault)
                    message, size = [entry], 0
                entry[key].append(fields)
                size += length
    if message:
        yield message


def _entry(vault: Vault) -> dict[str, Any]:
    entry: dict[str, Any] = {"user_id": vault.user_id, "vault_id": vault.vault_id, "create_vault": vault.create}
    return entry | {"notes": [], "proposals": []}


class _Tally:
    """Counts what a plan plants."""

    def __init__(self) -> None:
        self._listed: set[tuple[str, str]] = set()
        self._users: set[str] = set()
        self._hidden_vaults: set[str] = set()
        self._readable: set[tuple[str, str, str]] = set()
        self._notes = self._body_bytes = 0
        self._malformed: list[tuple[str, str, str]] = []
        self._oversized: list[tuple[str, str]] = []
        self._reply_sizes: dict[int, tuple[tuple[Note, ...], int]] = {}

    def add(self, vault: Vault) -> None:
        self._users.add(vault.user_id)
        if vault.notes or vault.create:
            self._listed.add((vault.user_id, vault.vault_id))
        elif vault.vault_id != DEFAULT_VAULT:
            self._hidden_vaults.add(vault.vault_id)
        self._notes += len(vault.notes)
        self._readable.update(
            (vault.user_id, proposal.vault_id or DEFAULT_VAULT, proposal.proposal_id) for proposal in vault.proposals
        )
        self._body_bytes += sum(_size(note.body) for note in vault.notes)
        self._malformed += (
            (vault.user_id, proposal.vault_id or DEFAULT_VAULT, proposal.proposal_id)
            for proposal in vault.proposals
            if not (_is_json(proposal.suggested_labels) and _is_json(proposal.assistant_suggested_frontmatter))
        )
        if self._reply_size(vault.notes) > _REPLY_BYTES:
            self._oversized.append((vault.user_id, vault.vault_id))

    def report(self) -> SeedReport:
        listed_users = {user_id for user_id, _ in self._listed}
        return SeedReport(
            user_ids=tuple(sorted(listed_users, key=str.encode)),
            hidden_user_ids=tuple(sorted(self._users - listed_users, key=str.encode)),
            hidden_vault_ids=tuple(sorted(self._hidden_vaults)),
            vaults=len(self._listed),
            notes=self._notes,
            proposals=len(self._readable),
            body_size_bytes=self._body_bytes,
            malformed=tuple(self._malformed),
            oversized=tuple(self._oversized),
        )

    def _reply_size(self, notes: tuple[Note, ...]) -> int:
        """Return the size of an export reply; the one copied to a thousand tenants is measured once."""
        if sum(_size(note.body) for note in notes) * 6 < _REPLY_BYTES:  # an escape takes at most six bytes
            return 0
        if id(notes) not in self._reply_sizes:
            size = len(json.dumps([attrs.asdict(note) for note in notes], ensure_ascii=False).encode())
            self._reply_sizes = {id(notes): (notes, size)}  # holding the notes keeps the id theirs
        return self._reply_sizes[id(notes)][1]


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
