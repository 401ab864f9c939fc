"""Check keys against a repository: which of them open it, and which access files none of them opens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from ...codecs.keys import Passphrase
from ...codecs.ktb2 import OpeningKey
from ...contracts import ArchiveSink
from ...errors import BackupError, NoMatchingKeyError
from ...model.reports import Outcome
from ...repository import access
from ...repository.access import AccessFile, access_files, opening_keys, try_access
from ...repository.keys import ReadKeys
from ...repository.repository import read_config

__all__ = ["AccessCheck", "RepositoryKeyCheck", "RepositoryKeyReport", "check_repository_keys"]


@attrs.frozen(kw_only=True)
class RepositoryKeyCheck:
    """What one key can do."""

    key: OpeningKey
    """Shows its id at most."""
    generation: int | None = None
    """Newest generation of the repository key that it leads to; `None`: it does not open the repository."""

    @property
    def opens(self) -> bool:
        """Whether it opens the repository."""
        return self.generation is not None

    def __str__(self) -> str:
        """Return the key and what it can do."""
        return f"{self.key!r} " + (f"opens it, generation {self.generation}" if self.opens else "does not open it")


@attrs.frozen(kw_only=True)
class AccessCheck:
    """Which of the keys open one access file."""

    access_id: str
    """Names the access file: 32 hexadecimal digits."""
    ways: tuple[str, ...] = ()
    """What opens it, as its header says: kinds, with key ids where there are any; not authenticated."""
    opened_by: tuple[OpeningKey, ...] = ()
    """Those of the keys that open it, in the order given; each shows its id at most."""
    generation: int | None = None
    """Newest generation of the repository key in it; `None` when nothing opened it."""
    error: BackupError | None = None
    """What is wrong with it: it is damaged, or holds secrets of another repository; `None` when nothing is known."""
    passphrases_tried: bool = True
    """Whether passphrases were tried where it takes one; not beyond a minute or two over all files."""

    def __str__(self) -> str:
        """Return one line for people."""
        shown = f"access file {self.access_id} for {', '.join(self.ways) or 'nobody that can be read'}"
        if self.error is not None:
            return f"{shown}: {self.error}"
        if self.opened_by:
            return f"{shown}: opens with {', '.join(map(repr, self.opened_by))}"
        return f"{shown}: opens with none of the keys" + ("" if self.passphrases_tried else " (passphrases not tried)")


@attrs.frozen(kw_only=True)
class RepositoryKeyReport:
    """Which of some keys open a repository."""

    repository_id: bytes
    location: str
    checks: tuple[RepositoryKeyCheck, ...]
    """One per key, in the order given."""
    files: tuple[AccessCheck, ...]
    """One per access file, sorted by id."""

    @property
    def opens(self) -> bool:
        """Whether the repository opens with any of the keys."""
        return any(check.opens for check in self.checks)

    @property
    def closed(self) -> tuple[AccessCheck, ...]:
        """Access files that open with none of the keys, and of which nothing worse is known."""
        return tuple(file for file in self.files if not file.opened_by and file.error is None)

    @property
    def damaged(self) -> tuple[AccessCheck, ...]:
        """Access files that cannot be read, or hold secrets of another repository."""
        return tuple(file for file in self.files if file.error is not None)

    @property
    def outcome(self) -> Outcome:
        """`OK`: every key opens it; `DIFFERENT`: an access file is damaged; `PARTIAL`: some keys open it; `FAILED`."""
        if self.damaged:
            return Outcome.DIFFERENT
        if all(check.opens for check in self.checks):
            return Outcome.OK
        return Outcome.PARTIAL if self.opens else Outcome.FAILED

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    def __str__(self) -> str:
        """Return a line for each key and each access file."""
        opening = sum(check.opens for check in self.checks)
        head = f"{opening} of {len(self.checks)} key(s) open the repository in {self.location}"
        return "\n".join([head, *(f"  {check}" for check in self.checks), *(f"  {file}" for file in self.files)])


def check_repository_keys(sink: ArchiveSink, keys: OpeningKey | Iterable[OpeningKey]) -> RepositoryKeyReport:
    """
    Find out which keys open a repository, and which of its access files open with none of them.

    Every key is tried on every access file. A key that opens one has been used, not only compared by its id, and what
    it found is what the repository was founded with. Passphrases are tried last, the cheapest files first, not beyond
    a minute or two. Keys that open nothing and access files that are damaged are told in the report, not raised.

    Args:
        sink: Where the repository is; needs the rights to list and read.
        keys: To be checked.

    Raises:
        RepositoryNotFoundError: There is no repository.
        ConfigurationError: Something is no key that opens repositories, kind ``bad_recipient``.
        IntegrityError: ``repository.json`` is damaged, kind ``bad_config``.
        UnsupportedFormatError: The repository is of a newer format.
        SinkError: The store could not be reached, or refuses.
    """
    given = opening_keys(keys)
    repository_id = read_config(sink).repository_id
    files = access_files(sink)
    exact = [key for key in given if not isinstance(key, Passphrase)]
    passphrases = [key for key in given if isinstance(key, Passphrase)]
    found = {file.key: _checked(file, exact, repository_id) for file in files}
    room = access.MAX_PASSPHRASE_WORK_KIB if passphrases else 0
    for file in sorted(files, key=lambda file: file.passphrase_work_kib):
        if passphrases and file.passphrase_work_kib and found[file.key].error is None:
            room -= file.passphrase_work_kib * len(passphrases)
            more = _checked(file, passphrases if room >= 0 else (), repository_id)
            found[file.key] = attrs.evolve(_joined(found[file.key], more), passphrases_tried=room >= 0)
    return RepositoryKeyReport(
        repository_id=repository_id,
        location=sink.location,
        checks=tuple(RepositoryKeyCheck(key=key, generation=_generation(key, found.values())) for key in given),
        files=tuple(_in_order(found[file.key], given) for file in files),
    )


def _checked(file: AccessFile, keys: Sequence[OpeningKey], repository_id: bytes) -> AccessCheck:
    slots = file.description.slots if file.description is not None else ()
    ways = tuple(f"{slot.kind} {slot.key_id}" if slot.key_id else slot.kind for slot in slots)
    check = AccessCheck(access_id=file.access_id, ways=ways, error=file.error)
    for key in keys:
        opened = try_access(file, [key], repository_id)
        if isinstance(opened, ReadKeys):
            generation = max(opened.private_keys)
            check = attrs.evolve(check, opened_by=(*check.opened_by, key), generation=generation)
        elif not isinstance(opened, NoMatchingKeyError):
            check = attrs.evolve(check, error=opened)
    return check


def _joined(one: AccessCheck, more: AccessCheck) -> AccessCheck:
    generation = one.generation if more.generation is None else more.generation
    opened_by = (*one.opened_by, *more.opened_by)
    return attrs.evolve(one, opened_by=opened_by, generation=generation, error=one.error or more.error)


def _in_order(check: AccessCheck, given: Sequence[OpeningKey]) -> AccessCheck:
    return attrs.evolve(check, opened_by=tuple(key for key in given if key in check.opened_by))


def _generation(key: OpeningKey, checks: Iterable[AccessCheck]) -> int | None:
    found = [check.generation for check in checks if key in check.opened_by and check.generation is not None]
    return max(found, default=None)
