"""How an export runs: one value, checked when it is made."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import attrs

from .._checks import at_least, between, one_of
from ..errors import ConfigurationError
from ..hub.index import PAGE_SIZE
from ..hub.schema import DEFAULT_VAULT

__all__ = ["ExportOptions", "KnownPaths", "PreviousExport", "normalise_vault_id"]

KnownPaths = Callable[[str, str], Iterable[str]]
"""Given tenant and vault, the note paths known from earlier backups."""

_MAX_VAULT_CHARACTERS = 64


class PreviousExport(Protocol):
    """An earlier, incomplete archive of the same hub whose finished tenants are to be taken over."""

    @property
    def capture_details(self) -> Mapping[str, Any]:
        """The `CaptureResult.details` of that archive."""

    def read(self, offset: int, size_bytes: int) -> Iterator[bytes]:
        """
        Yield the plain payload bytes ``[offset, offset + size_bytes)``.

        Called with ascending offsets as long as the order of tenants did not change.
        """


def normalise_vault_id(vault_id: str) -> str:
    """Return a vault id as the hub reads it: blank is ``default``, odd characters become ``_`` (contracts 1.2)."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", vault_id[:_MAX_VAULT_CHARACTERS]) if vault_id.strip() else DEFAULT_VAULT


def _vaults(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(normalise_vault_id(value) for value in values))


def _vaults_by_user(values: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    return {user_id: _vaults(vaults) for user_id, vaults in values.items()}


def _users(values: Sequence[str]) -> tuple[str, ...]:
    if isinstance(values, str):
        raise ConfigurationError("extra_users is a sequence of ids, not one text", kind="bad_option")
    return tuple(dict.fromkeys(values))


@attrs.frozen(kw_only=True)
class ExportOptions:
    """How one export runs. Defaults are safe for a running production hub."""

    concurrency: int = attrs.field(default=8, validator=between(1, 256))
    """Most requests under way at once; fewer while the hub answers 429 or 5xx."""
    on_error: Literal["fail", "continue"] = attrs.field(default="fail", validator=one_of("fail", "continue"))
    """
    ``fail`` ends the run at the first tenant that cannot be read. ``continue`` leaves out what cannot be read, lists it
    with its reason, and marks the capture incomplete.
    """
    consistency: Literal["single", "double"] = attrs.field(default="single", validator=one_of("single", "double"))
    """``double`` reads every vault twice over different connections, and differing notes a third time."""
    payload: Literal["full", "records"] = attrs.field(default="full", validator=one_of("full", "records"))
    """``full`` is format version 4; ``records`` is one canonical record per line, sorted."""
    extra_users: tuple[str, ...] = attrs.field(default=(), converter=_users)
    """Tenants the index may not list, for example everyone in earlier backups; those without content are left out."""
    extra_vaults: tuple[str, ...] = attrs.field(default=(), converter=_vaults)
    """Vaults to visit in every tenant although its list may lack them; empty ones are left out."""
    extra_vaults_of: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict, converter=_vaults_by_user)
    """The same for single tenants, by tenant id."""
    known_paths: KnownPaths | None = None
    """Where to find the paths of a vault that is too large to be read in one reply."""
    previous: PreviousExport | None = None
    """Resume: tenants that this archive holds completely are copied from it instead of read again."""
    index_page_size: int = attrs.field(default=PAGE_SIZE, validator=at_least(1))
    retry_budget: float = attrs.field(default=200.0, validator=at_least(0))
    """Retries the whole run may spend in advance; every success earns a quarter of one back."""
    buffer_bytes: int = attrs.field(default=16 * 1024 * 1024, validator=at_least(1))
    """Replies held because an earlier one is still awaited; those under way come on top."""
    raw_replies_bytes: int = attrs.field(default=32 * 1024 * 1024, validator=at_least(0))
    """Most malformed replies kept in side files, which are held in memory."""
    evidence_bytes: int = attrs.field(default=256 * 1024 * 1024, validator=at_least(1))
    """Most evidence of a certified export, compressed replies included; it is held in memory until the end."""
    progress_seconds: float = attrs.field(default=1.0, validator=at_least(0))
    """Least time between two ``export.progress`` events."""

    def vaults_beyond(self, user_id: str, listed: Iterable[str]) -> tuple[str, ...]:
        """Return the vaults to visit in addition to those the hub listed: always ``default``, then the extra ones."""
        known = set(listed)
        wanted = (DEFAULT_VAULT, *self.extra_vaults, *self.extra_vaults_of.get(user_id, ()))
        return tuple(vault_id for vault_id in dict.fromkeys(wanted) if vault_id not in known)
