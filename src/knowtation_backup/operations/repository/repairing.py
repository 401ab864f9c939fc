"""
Repair: bring back from a replica what is missing or damaged.

Sinks never overwrite. So this one verb removes a damaged object, once the good bytes are in hand and were compared with
the object's name, and creates it again. Whoever is stopped between both has lost what was lost before: the replica
still has it, and repeating the repair, or copying from the replica when it was a manifest, brings it back.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Sequence

import attrs

from ...codecs.ktb2 import describe
from ...codecs.signing import archive_id_problem
from ...contracts import ArchiveSink, Clock, Observer, ignore_events, utc_now
from ...errors import (
    BackupError,
    BlobExistsError,
    BlobNotFoundError,
    IntegrityError,
    PlanStaleError,
    SinkPermissionError,
)
from ...model.events import Event
from ...model.reports import Outcome, VerifyLevel
from ...model.signatures import SignaturePolicy
from ...repository.access import access_files
from ...repository.config import MAX_CONFIG_BYTES, RepositoryConfig
from ...repository.layout import ACCESS_PREFIX, CONFIG_KEY, TENANT_PREFIX, beside_archive, check_named
from ...repository.proving import WRONG_BYTES
from ...repository.repository import Repository
from ...repository.storing import MAX_OBJECT_BYTES
from ...repository.tenants import open_tenant_key
from .verify_reports import DamagedObject, RepositoryVerifyReport
from .verifying import verify_all

__all__ = ["RepairPlan", "RepairReport", "RepairStep", "apply_repair", "plan_repair"]


@attrs.frozen(kw_only=True)
class RepairStep:
    """What is to happen to one damaged object."""

    damage: DamagedObject
    found: str
    """SHA-256 of what lies there now, in hexadecimal; empty when nothing does."""
    replica: str = ""
    """Location of the replica that has it as it should be; empty when none has."""
    replica_number: int = -1
    """Which of the replicas given, from 0."""
    size_bytes: int = 0
    """Of the good object."""
    reason: str = ""
    """Why it cannot be healed; empty when it can."""

    @property
    def heals(self) -> bool:
        """Whether it can be healed."""
        return self.replica_number >= 0

    def __str__(self) -> str:
        """Return one line for people."""
        what = f"{self.damage.key}: {self.damage.code}, in {len(self.damage.archives)} archive(s)"
        if not self.heals:
            return f"CANNOT BE HEALED {what}: {self.reason}"
        how = "remove it and create it again" if self.found else "create it again"
        return f"{what}: {how}, {self.size_bytes} bytes from {self.replica}"


@attrs.frozen(kw_only=True)
class RepairPlan:
    """What a repair would do; nothing has happened yet."""

    location: str
    steps: tuple[RepairStep, ...]

    @property
    def healing(self) -> tuple[RepairStep, ...]:
        """Steps that can be taken."""
        return tuple(step for step in self.steps if step.heals)

    @property
    def hopeless(self) -> tuple[RepairStep, ...]:
        """What no replica has as it should be."""
        return tuple(step for step in self.steps if not step.heals)

    def __str__(self) -> str:
        """Return a line per damaged object."""
        if not self.steps:
            return f"nothing is to be repaired in {self.location}"
        lines = [f"repair {len(self.healing)} of {len(self.steps)} damaged objects in {self.location}"]
        return "\n".join(lines + [f"  {step}" for step in self.steps])


@attrs.frozen(kw_only=True)
class RepairReport:
    """What applying a plan did."""

    healed: tuple[str, ...]
    """Keys of objects that are as they should be again."""
    unhealed: tuple[tuple[str, str], ...]
    """Keys of the others, each with the reason."""
    copied_bytes: int = 0

    @property
    def outcome(self) -> Outcome:
        """`OK`, or `PARTIAL` when something could not be healed."""
        return Outcome.PARTIAL if self.unhealed else Outcome.OK

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    def __str__(self) -> str:
        """Return a line per object."""
        lines = [f"healed {len(self.healed)} object(s), {self.copied_bytes:,} bytes"]
        return "\n".join(lines + [f"  NOT HEALED {key}: {reason}" for key, reason in self.unhealed])


def plan_repair(  # noqa: PLR0913 - the last four have defaults
    repository: Repository,
    replicas: Repository | Sequence[Repository],
    *,
    archive_ids: Iterable[str] | None = None,
    report: RepositoryVerifyReport | None = None,
    observer: Observer = ignore_events,
    clock: Clock = utc_now,
) -> RepairPlan:
    """
    Find out what is damaged, and which replica has it as it should be; nothing happens.

    An archive whose manifest is gone was forgotten, as far as anybody can tell: `copy` it back from the replica.

    Args:
        repository: What to repair.
        replicas: Where good objects may be, the first one that has them is used; writer keys are enough.
        archive_ids: Only objects of these archives; `None` means of all but those in the trash.
        report: Of a verification, so that none is made now.
        observer: Told what happens.
        clock: Dates the verification.

    Raises:
        SinkUnavailableError: A store could not be reached.
        SinkPermissionError: Listing or reading is refused.
    """
    if report is None:
        level = VerifyLevel.CONTENT
        report = verify_all(repository, archive_ids, level=level, record=False, observer=observer, clock=clock)
    given = [replicas] if isinstance(replicas, Repository) else list(replicas)
    steps = tuple(step for damage in report.objects for step in _steps(repository, given, damage))
    return RepairPlan(location=repository.sink.location, steps=steps)


def _steps(repository: Repository, replicas: Sequence[Repository], damage: DamagedObject) -> Iterator[RepairStep]:
    if damage.key != ACCESS_PREFIX:
        yield _step(repository, replicas, damage)
        return
    # No access file is left, and none of them can be named: everybody whom a replica knows gets theirs back.
    known = sorted({file.key for replica in replicas for file in access_files(replica.sink)})
    yield from (_step(repository, replicas, attrs.evolve(damage, key=key)) for key in known)
    if not known:
        yield RepairStep(damage=damage, found="", reason="no replica has one")


def _step(repository: Repository, replicas: Sequence[Repository], damage: DamagedObject) -> RepairStep:
    here = _stored(repository, damage.key)
    found = hashlib.sha256(here).hexdigest() if here is not None else ""
    if here is not None and _fault(repository, damage.key, here) is None:
        reason = "its bytes are what was written: no copy can have others"
        return RepairStep(damage=damage, found=found, reason=reason)
    reasons: list[str] = []
    for number, replica in enumerate(replicas):
        stored = _stored(replica, damage.key)
        fault = _fault(repository, damage.key, stored)
        if stored is not None and fault is None:
            return RepairStep(
                damage=damage,
                found=found,
                replica=replica.sink.location,
                replica_number=number,
                size_bytes=len(stored),
            )
        reasons.append(f"{replica.sink.location}: {fault}")
    return RepairStep(damage=damage, found=found, reason="; ".join(reasons) or "there is no replica")


def _sink_of(repository: Repository, key: str) -> ArchiveSink:
    return repository.tenant_sink if key.startswith(TENANT_PREFIX) else repository.sink


def _stored(repository: Repository, key: str) -> bytes | None:
    """Return an object as it lies there, and no more of it than any can have; `None` when there is none."""
    with contextlib.suppress(BlobNotFoundError):
        return b"".join(_sink_of(repository, key).read(key, size_bytes=MAX_OBJECT_BYTES + 1))
    return None


def _fault(repository: Repository, key: str, stored: bytes | None) -> BackupError | None:
    """Return what is wrong with the bytes of an object, `None` when they are what they should be."""
    try:
        if stored is None:
            raise BlobNotFoundError(f"there is no {key}", key=key)
        signed = beside_archive(key)
        if signed is not None:
            problem = archive_id_problem(signed, stored, repository.signatures or SignaturePolicy())
            if problem is not None:
                raise problem
        elif key.startswith(TENANT_PREFIX):
            open_tenant_key(key, stored, repository.read_keys)
        elif key.startswith(ACCESS_PREFIX):
            describe(lambda: iter((stored,)))
        elif key != CONFIG_KEY:
            check_named(key, stored)
        elif len(stored) > MAX_CONFIG_BYTES or RepositoryConfig.from_bytes(stored) != repository.config:
            raise IntegrityError("repository.json says something else than when it was opened", kind="bad_config")
    except WRONG_BYTES as error:
        return error
    return None


def apply_repair(
    repository: Repository,
    replicas: Repository | Sequence[Repository],
    plan: RepairPlan,
    *,
    observer: Observer = ignore_events,
) -> RepairReport:
    """
    Do what a plan says, object by object.

    Args:
        repository: What to repair; damaged objects need the right to delete, missing ones only to create.
        replicas: Those the plan was made with, in the same order.
        plan: As it was made; printing it says what happens.
        observer: Told of every object.

    Raises:
        PlanStaleError: Something is not as it was when the plan was made; nothing happened.
        SinkUnavailableError: A store could not be reached; repeat the repair to go on.
    """
    given = [replicas] if isinstance(replicas, Repository) else list(replicas)
    _check_fresh(repository, given, plan)
    healed: list[str] = []
    unhealed = [(step.damage.key, step.reason) for step in plan.hopeless]
    copied_bytes = 0
    for step in plan.healing:
        key = step.damage.key
        try:
            copied_bytes += _heal(repository, given[step.replica_number], step)
        except (*WRONG_BYTES, SinkPermissionError) as error:
            observer(Event(name="repair.failed", fields={"key": key, "error": error.kind}))
            unhealed.append((key, str(error)))
        else:
            observer(Event(name="repair.healed", fields={"key": key, "size_bytes": step.size_bytes}))
            healed.append(key)
    return RepairReport(healed=tuple(healed), unhealed=tuple(unhealed), copied_bytes=copied_bytes)


def _check_fresh(repository: Repository, replicas: Sequence[Repository], plan: RepairPlan) -> None:
    if any(step.replica_number >= len(replicas) for step in plan.steps):
        raise PlanStaleError("the plan was made with other replicas", hint="pass those it was made with")
    changed = [step.damage.key for step in plan.healing if _digest(repository, step.damage.key) != step.found]
    if changed:
        message = f"{len(changed)} object(s) changed since the plan was made: {', '.join(changed[:5])}"
        raise PlanStaleError(message, hint="plan again", keys=changed[:20])


def _digest(repository: Repository, key: str) -> str:
    stored = _stored(repository, key)
    return "" if stored is None else hashlib.sha256(stored).hexdigest()


def _heal(repository: Repository, replica: Repository, step: RepairStep) -> int:
    key = step.damage.key
    good = _stored(replica, key)
    fault = _fault(repository, key, good)
    if fault is not None:
        raise fault
    data = good or b""
    sink = _sink_of(repository, key)
    if step.found:
        with contextlib.suppress(BlobNotFoundError):
            sink.delete(key)
    with contextlib.suppress(BlobExistsError):  # somebody else healed it meanwhile: that is looked at next
        sink.put(key, (data,))
    again = _fault(repository, key, _stored(repository, key))
    if again is not None:
        raise again
    return len(data)
