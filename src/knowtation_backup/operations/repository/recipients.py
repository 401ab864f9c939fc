"""
Who may open a repository: list, add, remove, and rotate the repository key. No content is read, sealed or moved.

Every change needs the key of a recipient who stays: it gives the newest secrets, and proves that nobody locks itself
out. Nothing makes a removed recipient forget what it knew, and every report says what remains open to it.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Iterable, Sequence

import attrs

from ...codecs.keys import KeyKind, Passphrase, PrivateKey
from ...codecs.ktb2 import Argon2Parameters, OpeningKey, SealingKey, SlotInfo
from ...contracts import Observer, ignore_events
from ...errors import (
    BlobExistsError,
    BlobNotFoundError,
    ConfigurationError,
    NoMatchingKeyError,
    PlanStaleError,
    SinkPermissionError,
)
from ...model.events import Event
from ...model.reports import Finding, Outcome
from ...repository.access import (
    AccessFile,
    access_files,
    open_access,
    opening_keys,
    put_access,
    rotation_id,
    sealing_keys,
)
from ...repository.keys import ReadKeys
from ...repository.layout import access_key
from ...repository.repository import Repository

__all__ = [
    "Recipient",
    "RecipientAction",
    "RecipientPlan",
    "RecipientReport",
    "RecipientsListing",
    "add_recipients",
    "apply_recipients",
    "list_recipients",
    "plan_remove_recipients",
    "plan_rotate",
]


@attrs.frozen(kw_only=True)
class Recipient:
    """One way into a repository, as an access file's header says; not authenticated."""

    access_id: str
    """Names the access file: 32 hexadecimal digits, or the first of them where a recipient is to be named."""
    kind: str
    """``key``, ``passphrase``, ``x25519``, ``mlkem768x25519``, or ``unknown`` to this release."""
    key_id: str | None = None
    """`None` for passphrases and what is unknown."""
    stored_at: dt.datetime | None = None
    """When by the store's clock; `None` where it has none."""

    @property
    def key(self) -> str:
        """Of the access file in the store."""
        return access_key(bytes.fromhex(self.access_id))

    def __str__(self) -> str:
        """Return kind, key id and access file."""
        since = f" since {self.stored_at:%Y-%m-%d}" if self.stored_at is not None else ""
        return f"{self.kind} {self.key_id or '(no id)'}{since}, access file {self.access_id}"


@attrs.frozen(kw_only=True)
class RecipientsListing:
    """Who may open a repository."""

    recipients: tuple[Recipient, ...]
    findings: tuple[Finding, ...] = ()
    """Access files that cannot be read, code ``access_unreadable``."""

    @property
    def outcome(self) -> Outcome:
        """`OK`, or `DIFFERENT` when an access file cannot be read."""
        return Outcome.DIFFERENT if self.findings else Outcome.OK

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    def __str__(self) -> str:
        """Return a line for each recipient."""
        lines = [f"{len(self.recipients)} recipient(s)", *(f"  {each}" for each in self.recipients)]
        return "\n".join([*lines, *(f"  {f.code} at {f.where}: {f.message}" for f in self.findings)])


class RecipientAction(enum.Enum):
    """What changes."""

    ADD = "add"
    REMOVE = "remove"
    ROTATE = "rotate"


@attrs.frozen(kw_only=True)
class RecipientPlan:
    """What a change of recipients would do."""

    action: RecipientAction
    repository_id: bytes
    seal_to: tuple[SealingKey, ...] = ()
    """For whom access files are written."""
    removes: tuple[Recipient, ...] = ()
    """Whose access files are deleted, where the store allows it."""
    stays: tuple[Recipient, ...] = ()
    """Whose access files are not touched."""
    generation: int
    """Of the repository key, when the plan was made."""
    kind: KeyKind = KeyKind.MLKEM768_X25519
    """Of the new repository key, when it is rotated."""
    kdf: Argon2Parameters | None = attrs.field(default=None, repr=False)
    seen: tuple[str, ...] = attrs.field(default=(), repr=False)
    """Keys of the access files the plan was made for."""
    opens_with: tuple[OpeningKey, ...] = attrs.field(default=(), repr=False)

    @property
    def dropped(self) -> tuple[Recipient, ...]:
        """Who could open the repository before and has no access file afterwards; passphrases cannot be told apart."""
        kept = {key.key_id for key in self.seal_to if not isinstance(key, Passphrase)}
        kept |= {each.key_id for each in self.stays if each.key_id is not None}
        words = any(isinstance(key, Passphrase) for key in self.seal_to)
        return tuple(
            each
            for each in self.removes
            if (each.key_id not in kept if each.key_id is not None else not (words and each.kind == "passphrase"))
        )

    def __str__(self) -> str:
        """Return what would happen, for people."""
        lines = [f"{self.action.value} recipients of repository {self.repository_id.hex()}"]
        if self.action is RecipientAction.ROTATE:
            lines.append(f"  new repository key, generation {self.generation + 1} ({self.kind})")
        lines += [f"  write an access file for {key!r}" for key in self.seal_to]
        lines += [f"  delete the access file of {each}" for each in self.removes]
        lines += [f"  leave {each}" for each in self.stays]
        lines += [f"  LOSES ACCESS to what is written later: {each}" for each in self.dropped]
        return "\n".join(lines)


@attrs.frozen(kw_only=True)
class RecipientReport:
    """What a change of recipients did, and what remains open."""

    action: RecipientAction
    repository: Repository = attrs.field(repr=False)
    """Open with the newest secrets: go on with this one."""
    generation: int
    """Of the repository key: what is written from now on is sealed to it."""
    written: tuple[str, ...] = ()
    """Keys of new access files."""
    removed: tuple[str, ...] = ()
    """Keys of access files that are gone."""
    left: tuple[str, ...] = ()
    """Keys of access files that should be gone; the store refuses."""
    findings: tuple[Finding, ...] = ()
    """What remains open, to whom, and what to do about it."""

    @property
    def outcome(self) -> Outcome:
        """`OK`, or `PARTIAL` when the store kept old access files."""
        return Outcome.PARTIAL if self.left else Outcome.OK

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    def __str__(self) -> str:
        """Return a few lines for people."""
        counts = f"{len(self.written)} access file(s) written, {len(self.removed)} removed, {len(self.left)} left"
        lines = [f"{self.action.value} recipients: {counts}; generation {self.generation}"]
        return "\n".join([*lines, *(f"  {f.code} at {f.where}: {f.message}" for f in self.findings)])


def list_recipients(repository: Repository) -> RecipientsListing:
    """
    Say who may open a repository, from the headers of its access files; no key is used.

    Raises:
        SinkError: The store could not be reached, or refuses.
    """
    files = access_files(repository.sink)
    findings = [
        Finding(code="access_unreadable", where=file.key, message=str(file.error))
        for file in files
        if file.error is not None
    ]
    return RecipientsListing(recipients=_recipients(files), findings=tuple(findings))


def add_recipients(
    repository: Repository,
    seal_to: SealingKey | Iterable[SealingKey],
    *,
    opens_with: OpeningKey | Iterable[OpeningKey],
    kdf: Argon2Parameters | None = None,
    observer: Observer = ignore_events,
) -> RecipientReport:
    """
    Give more recipients access to everything in a repository, older archives too; nothing else is written.

    Args:
        repository: Which; how it was opened does not matter.
        seal_to: The new ones.
        opens_with: Keys of a recipient.
        kdf: What passphrases cost to try.
        observer: Told what happens.

    Raises:
        NoMatchingKeyError: *opens_with* does not open the repository.
        ConfigurationError: Somebody cannot be a recipient.
        SinkError: Storing failed; some of the new ones may have access already.
    """
    seal_to, opens_with = sealing_keys(seal_to), opening_keys(opens_with)
    plan = _plan(repository, RecipientAction.ADD, opens_with, seal_to=seal_to, kdf=kdf)
    return apply_recipients(repository, plan, observer=observer)


def plan_remove_recipients(
    repository: Repository, named: str | Iterable[str], *, opens_with: OpeningKey | Iterable[OpeningKey]
) -> RecipientPlan:
    """
    Return a plan that takes access files away; nothing happens. `plan_rotate` closes what is written later, too.

    Args:
        repository: Which.
        named: Key ids, or ids of access files (of passphrases), or at least 8 first digits of these.
        opens_with: Keys of a recipient who stays.

    Raises:
        ConfigurationError: A name is none of a recipient (``no_such_recipient``), or nobody whose key is at hand would
            be left (``locked_out``).
        NoMatchingKeyError: *opens_with* does not open the repository.
        SinkError: The store could not be reached, or refuses.
    """
    texts = [named] if isinstance(named, str) else list(named)
    listed = _recipients(access_files(repository.sink))
    removed: set[str] = set()
    for text in texts:
        found = {each.access_id for each in listed if each.key_id == text or _begins(each.access_id, text)}
        if not found:
            message = f"{text!r:.80} names no recipient of the repository in {repository.sink.location}"
            raise ConfigurationError(message, kind="no_such_recipient", hint="list the recipients")
        removed |= found
    return _plan(repository, RecipientAction.REMOVE, opening_keys(opens_with), removed=removed)


def plan_rotate(
    repository: Repository,
    *,
    seal_to: SealingKey | Iterable[SealingKey],
    opens_with: OpeningKey | Iterable[OpeningKey],
    kind: KeyKind = KeyKind.MLKEM768_X25519,
    kdf: Argon2Parameters | None = None,
) -> RecipientPlan:
    """
    Return a plan that gives a repository a new key, for exactly the recipients named; nothing happens.

    Args:
        repository: Which.
        seal_to: Everybody who shall read what is written from then on, and what was written before.
        opens_with: Keys of a recipient, who must be among *seal_to*.
        kind: Of the new repository key.
        kdf: What passphrases cost to try.

    Raises:
        ConfigurationError: Somebody cannot be a recipient, or none of *opens_with* would open the repository
            afterwards (``locked_out``).
        NoMatchingKeyError: *opens_with* does not open the repository now.
        SinkError: The store could not be reached, or refuses.
    """
    seal_to, opens_with = sealing_keys(seal_to), opening_keys(opens_with)
    halves = {key.public_key if isinstance(key, PrivateKey) else key for key in opens_with}
    if not halves & set(seal_to):
        raise _locked_out()
    return _plan(repository, RecipientAction.ROTATE, opens_with, seal_to=seal_to, kind=kind, kdf=kdf)


def apply_recipients(
    repository: Repository, plan: RecipientPlan, *, observer: Observer = ignore_events
) -> RecipientReport:
    """
    Do what a plan says: new access files first, then the old ones go, where the store allows it.

    An interruption leaves everybody who had access with at least what it had; repeat it with a new plan.

    Raises:
        PlanStaleError: Recipients changed since the plan was made, or another host rotates at this moment; nothing
            happened.
        ConfigurationError: The plan is of another repository, kind ``wrong_repository``.
        SinkError: Storing failed, or the store could not be reached.
    """
    if plan.repository_id != repository.config.repository_id:
        raise ConfigurationError("the plan is of another repository", kind="wrong_repository")
    sink = repository.sink
    keys = open_access(sink, plan.opens_with, plan.repository_id)
    if tuple(file.key for file in access_files(sink)) != plan.seen or max(keys.private_keys) != plan.generation:
        raise PlanStaleError("recipients changed since the plan was made", hint="plan again")
    access_id = None
    if plan.action is RecipientAction.ROTATE:
        keys = keys.rotated(plan.kind)
        access_id = rotation_id(keys)
    written: list[str] = []
    for recipient in plan.seal_to:
        try:
            written.append(put_access(sink, keys, recipient, kdf=plan.kdf, access_id=access_id))
        except BlobExistsError as error:
            message = f"another host made generation {max(keys.private_keys)} of the repository key"
            raise PlanStaleError(message, hint="plan again") from error
        access_id = None  # one of them claims the generation
    changed = {file.key for file in access_files(sink)} != {*plan.seen, *written}
    removed, left = _delete(repository, plan.removes)
    observer(
        Event(
            name="recipients.changed",
            fields={
                "action": plan.action.value,
                "generation": max(keys.private_keys),
                "written": len(written),
                "removed": len(removed),
                "left": len(left),
            },
        )
    )
    return RecipientReport(
        action=plan.action,
        repository=attrs.evolve(repository, keys=keys),
        generation=max(keys.private_keys),
        written=tuple(written),
        removed=tuple(removed),
        left=tuple(left),
        findings=tuple(_findings(repository, plan, left, changed=changed)),
    )


def _plan(  # noqa: PLR0913 - keyword only, with defaults
    repository: Repository,
    action: RecipientAction,
    opens_with: tuple[OpeningKey, ...],
    *,
    seal_to: tuple[SealingKey, ...] = (),
    removed: Iterable[str] | None = None,
    kind: KeyKind = KeyKind.MLKEM768_X25519,
    kdf: Argon2Parameters | None = None,
) -> RecipientPlan:
    files = access_files(repository.sink)
    keys = open_access(repository.sink, opens_with, repository.config.repository_id)
    gone = set(removed or ())
    if action is RecipientAction.ROTATE:
        gone = {file.access_id for file in files}
    elif gone and not _opens(files, gone, opens_with, keys):
        raise _locked_out()
    listed = _recipients(files)
    return RecipientPlan(
        action=action,
        repository_id=repository.config.repository_id,
        seal_to=seal_to,
        removes=tuple(each for each in listed if each.access_id in gone),
        stays=tuple(each for each in listed if each.access_id not in gone),
        generation=max(keys.private_keys),
        kind=kind,
        kdf=kdf,
        seen=tuple(file.key for file in files),
        opens_with=opens_with,
    )


def _opens(files: Sequence[AccessFile], gone: set[str], keys: tuple[OpeningKey, ...], newest: ReadKeys) -> bool:
    """Whether one of the access files that stay gives the newest secrets to one of the keys."""
    for file in files:
        if file.access_id in gone or file.error is not None:
            continue
        try:
            if file.secrets(keys) == newest:
                return True
        except NoMatchingKeyError:
            continue
    return False


def _locked_out() -> ConfigurationError:
    message = "none of the keys at hand would open the repository afterwards"
    return ConfigurationError(message, kind="locked_out", hint="use the key of a recipient who stays")


def _begins(access_id: str, text: str) -> bool:
    return len(text) >= 8 and access_id.startswith(text)


def _recipients(files: Iterable[AccessFile]) -> tuple[Recipient, ...]:
    found: list[Recipient] = []
    for file in files:
        slots = file.description.slots if file.description is not None else (SlotInfo(kind="unknown"),)
        found += [
            Recipient(access_id=file.access_id, kind=slot.kind, key_id=slot.key_id, stored_at=file.info.modified_at)
            for slot in slots
        ]
    return tuple(found)


def _delete(repository: Repository, gone: Iterable[Recipient]) -> tuple[list[str], list[str]]:
    removed: list[str] = []
    left: list[str] = []
    for key in dict.fromkeys(each.key for each in gone):
        try:
            repository.sink.delete(key)
        except BlobNotFoundError:
            removed.append(key)
        except SinkPermissionError:
            left.append(key)
        else:
            removed.append(key)
    return removed, left


def _findings(repository: Repository, plan: RecipientPlan, left: Sequence[str], *, changed: bool) -> Iterable[Finding]:
    where = repository.sink.location
    for key in left:
        message = "the store does not allow deleting it: whoever could open it still can; delete it with other rights"
        yield Finding(code="access_left", where=key, message=message)
    for each in plan.dropped:
        message = (
            f"{each.kind} {each.key_id or each.access_id} keeps what it knew: it reads what was written up to now, "
            "wherever a copy is, and opens copies of its access file; take away its rights on the store and replicas"
        )
        yield Finding(code="removed_remembers", where=each.key, message=message)
    if plan.action is RecipientAction.REMOVE and plan.removes:
        message = "what is written from now on is sealed to the same repository key, which they know: rotate it"
        yield Finding(code="key_not_rotated", where=where, message=message)
    if plan.action is RecipientAction.ROTATE:
        message = (
            f"writer keys of generation {plan.generation} and before still work, and what they write opens for "
            "everybody who had that generation: hand out the new writer key, and delete the old ones"
        )
        yield Finding(code="old_writer_keys", where=where, message=message)
        message = "manifests and indexes are still sealed with the same key: whoever had it sees sources, times, sizes"
        yield Finding(code="index_key_stays", where=where, message=message)
    if changed:
        message = "somebody else changed recipients at the same time: look at the list, and repeat what is missing"
        yield Finding(code="recipients_changed", where=where, message=message)
