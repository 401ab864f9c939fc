"""Names of records that differ: which tenant, note or proposal, how large, and what became of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from ...exports.records import RecordKind, parse_record
from .difference_reports import Change, RecordChange, TenantDifference

__all__ = ["by_tenant", "named_changes", "ordered", "status_of"]

_OWNER_BYTES = 8


def named_changes(
    changes: Mapping[bytes, Change], before: Mapping[bytes, bytes], after: Mapping[bytes, bytes]
) -> dict[bytes, RecordChange]:
    """
    Name changes by what the records say.

    Args:
        changes: By key of the record.
        before: Earlier values of those that changed or went.
        after: Later values of those that changed or came. What is missing, since a tenant was erased, has no name.

    Raises:
        IntegrityError: A value is no record of an export.
    """
    named: dict[bytes, RecordChange] = {}
    for key, change in changes.items():
        old, new = before.get(key), after.get(key)
        if (old is None and change is not Change.ADDED) or (new is None and change is not Change.REMOVED):
            continue
        found = [None if value is None else parse_record(value) for value in (old, new)]
        record = next(one[0] for one in reversed(found) if one is not None)
        status = [status_of(one[1]) if one is not None else None for one in found]
        named[key] = RecordChange(
            change=change,
            kind=record.kind,
            user_id=record.user_id,
            vault_id=record.vault_id,
            name=record.name,
            before_bytes=None if old is None else len(old),
            after_bytes=None if new is None else len(new),
            before_status=status[0],
            after_status=status[1],
        )
    return named


def ordered(named: Mapping[bytes, RecordChange]) -> tuple[RecordChange, ...]:
    """Return changes by tenant, kind, vault and name."""
    kinds = list(RecordKind)
    return tuple(sorted(named.values(), key=lambda one: (one.user_id, kinds.index(one.kind), one.vault_id, one.name)))


def status_of(content: object) -> str | None:
    """Return the status of a proposal; `None` of one that has none, and of everything else."""
    status = content.get("status") if isinstance(content, dict) else None
    return status if isinstance(status, str) else None


def by_tenant(changes: Mapping[bytes, Change], named: Mapping[bytes, RecordChange]) -> Iterator[TenantDifference]:
    """Yield what differs of each tenant, by its hash; with its id, if a record said it."""
    counts: dict[bytes, Counter[Change]] = {}
    names: dict[bytes, str] = {}
    for key, change in changes.items():
        owner = key[:_OWNER_BYTES]
        counts.setdefault(owner, Counter())[change] += 1
        if key in named:
            names[owner] = named[key].user_id
    for owner in sorted(counts):
        found = counts[owner]
        yield TenantDifference(
            owner_key=owner.hex(),
            user_id=names.get(owner),
            added=found[Change.ADDED],
            removed=found[Change.REMOVED],
            changed=found[Change.CHANGED],
        )
