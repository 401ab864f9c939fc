"""
Reading one tenant: the requests, in which order their answers belong, and what to do when one of them fails.

A tenant is a small tree of steps for `run_in_order`; each step is one request (or one piece of arithmetic) and yields
pieces: parts of the payload, problems, and remarks. No step holds more than one vault::

    vault list ─> [probes of unlisted vaults] [vault heads] vault… [proposal lists] plan ─> proposal…
"""

from __future__ import annotations

import concurrent.futures
import functools
import threading
from collections.abc import Callable, Collection, Sequence
from typing import TypeAlias, TypeVar

import attrs

from .._engine.prefetch import Done, Step
from ..errors import BackupError, ExportError, SourceError, SourceUnavailableError
from ..hub.client import HubClient
from ..hub.limits import QUERY_REPLY_LIMIT_BYTES
from ..hub.schema import Proposal, StubList, proposal_id_of, proposal_vault_of
from ..model.reports import Finding
from .decoding import Disagreement, VaultNotes, decode_vault, settle
from .forms import Form, Part
from .options import ExportOptions
from .records import TenantContent

__all__ = ["Piece", "Problem", "RawReply", "Remark", "TenantReader", "TenantStart", "Workshop"]

T = TypeVar("T")

_FORECAST_PERCENT = 70
_STUB_KEYS = ("proposal_id", "path", "status", "vault_id")
_LARGE_REPLY_BYTES = 256 * 1024


@attrs.frozen(kw_only=True)
class TenantStart:
    """The next tenant begins; what was read of the last one is complete."""

    reader: TenantReader = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class Problem:
    """Something that could not be read; the capture is incomplete."""

    what: str
    """``tenant``, ``vault``, ``note``, ``proposals`` or ``proposal``."""
    vault_id: str = ""
    name: str = ""
    """Path of a note or id of a proposal."""
    kind: str
    message: str
    hint: str = ""


@attrs.frozen(kw_only=True)
class Remark:
    """Something an operator should know, with facts for the details."""

    finding: Finding
    facts: dict[str, object] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class RawReply:
    """A malformed reply, complete."""

    vault_id: str
    proposal_id: str
    content: bytes = attrs.field(repr=False)


Piece: TypeAlias = TenantStart | Part | Problem | Remark | RawReply
"""What steps yield."""


class Workshop:
    """
    What all tenants of one capture share. Close it when the last step has ended.

    Large replies are decoded in one thread of their own. Decoding takes several times the size of a reply, and each
    thread's heap keeps the most it ever took; the interpreter lets only one thread at a time do this work anyway.
    """

    def __init__(
        self, hub: HubClient, options: ExportOptions, form: Form, *, reply_limit_bytes: int = QUERY_REPLY_LIMIT_BYTES
    ) -> None:
        self.reply_limit_bytes: int = reply_limit_bytes
        self.hub = hub
        self.options = options
        self.form = form
        self._lane = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="decode")  # starts with its first task

    def decode(self, size_bytes: int, work: Callable[[], T]) -> T:
        """Do *work* on a reply of *size_bytes*: here when it is small, otherwise when its turn comes."""
        return work() if size_bytes <= _LARGE_REPLY_BYTES else self._lane.submit(work).result()

    def close(self) -> None:
        """End the decoding thread."""
        self._lane.shutdown()


@attrs.frozen(kw_only=True)
class _Planned:
    visited: str
    """The vault whose list named it, which the request must name too."""
    key: tuple[str, str]
    stub: Proposal = attrs.field(repr=False)


class TenantReader:
    """
    Reads one tenant.

    Args:
        workshop: Shared by all tenants.
        user_id: The tenant.
        listed: Whether the hub's index lists it; others are left out of the payload unless they have content.
        vault_id: Read this vault only, and do not ask for the list.
    """

    def __init__(
        self,
        workshop: Workshop,
        user_id: str,
        *,
        listed: bool,
        vault_id: str | None = None,
    ) -> None:
        self.user_id = user_id
        self.listed = listed
        self.content: TenantContent = TenantContent(user_id)
        self.proposals_without_id: int = 0
        self.partial_vaults: list[str] = []
        self._only = vault_id
        self._workshop = workshop
        self._hub = workshop.hub
        self._options = workshop.options
        self._form = workshop.form
        self._lock = threading.Lock()
        self._lists: dict[str, StubList] = {}
        self._probes: dict[str, VaultNotes] = {}

    def step(self) -> Step[Piece]:
        """Return the first step; everything else follows from it."""
        return Step(self._begin)

    # -- what there is ------------------------------------------------------------------------------------------------

    def _begin(self) -> Done[Piece]:
        start = TenantStart(reader=self)
        if self._only is not None:
            return Done((start,), self._steps((self._only,), ()))
        try:
            vaults = self._hub.vaults(self.user_id)
        except BackupError as error:
            return Done((start, self._problem("tenant", error)))
        listed = vaults if self.listed else ()  # an unknown tenant is answered like one with an empty default vault
        probed = self._options.vaults_beyond(self.user_id, listed)
        if not self.listed:
            probed = tuple(dict.fromkeys((*vaults, *probed)))
        return Done((start,), self._steps(listed, probed))

    def _steps(self, listed: Sequence[str], probed: Sequence[str]) -> list[Step[Piece]]:
        order = [*listed, *probed]
        if self._form.sorted:
            order.sort(key=_utf8)
        probes = {vault_id: Step[Piece](functools.partial(self._probe, vault_id)) for vault_id in probed}
        heads: list[Step[Piece]] = []
        if self._form.sorted:
            name_all = functools.partial(self._heads, order, probes.keys())
            heads.append(Step(name_all, tuple(probes.values())))
        vaults = [
            Step[Piece](functools.partial(self._probed_vault, vault_id), (probes[vault_id], *heads))
            if vault_id in probes
            else Step[Piece](functools.partial(self._vault, vault_id))
            for vault_id in order
        ]
        lists = [Step[Piece](functools.partial(self._list, vault_id)) for vault_id in order]
        plan = Step[Piece](functools.partial(self._plan, order), tuple(lists))
        return [*probes.values(), *heads, *vaults, *lists, plan]

    # -- vaults -------------------------------------------------------------------------------------------------------

    def _probe(self, vault_id: str) -> Done[Piece]:
        """Read a vault that may not exist, and keep it until its place in the order is reached."""
        try:
            content, remarks = self._read_vault(vault_id, lambda content, remarks: (content, remarks))
        except BackupError as error:
            return Done((self._problem("vault", error, vault_id=vault_id),))
        if not content.notes:
            return Done()
        self._probes[vault_id] = content
        remarks.append(
            self._remark("hidden_vault", vault_id, "the hub does not list this vault, but it has notes", vault=vault_id)
        )
        return Done(tuple(remarks), size_bytes=content.reply_bytes)

    def _heads(self, order: Sequence[str], probed: Collection[str]) -> Done[Piece]:
        """Name every vault before the content of any; the records of vaults that turn out unreadable stay."""
        existing = [vault_id for vault_id in order if vault_id not in probed or vault_id in self._probes]
        with self._lock:
            for vault_id in existing:
                self.content.add_vault(vault_id)
        part = self._form.vault_heads(self.user_id, existing)
        return Done((part,) if part and part.size_bytes else ())

    def _probed_vault(self, vault_id: str) -> Done[Piece]:
        content = self._probes.pop(vault_id, None)
        return Done() if content is None else self._whole(vault_id, content, [])

    def _vault(self, vault_id: str) -> Done[Piece]:
        try:
            return self._read_vault(vault_id, functools.partial(self._whole, vault_id))
        except BackupError as error:
            if _may_be_too_large(error):
                return self._too_large(vault_id, error)
            return Done((self._problem("vault", error, vault_id=vault_id),))

    def _whole(self, vault_id: str, content: VaultNotes, remarks: list[Remark]) -> Done[Piece]:
        with self._lock:
            if not self._form.sorted:
                self.content.add_vault(vault_id)
            self.content.add_notes(vault_id, content.notes)
        part = self._form.vault(self.user_id, vault_id, content)
        return Done((*remarks, part), size_bytes=part.size_bytes)

    def _read_vault(self, vault_id: str, finish: Callable[[VaultNotes, list[Remark]], T]) -> T:
        """
        Read a vault and return what *finish* makes of it.

        A single reading is decoded and finished in one go: a decoded vault must not wait for its turn to be finished.
        """
        where = f"{self.user_id}/{vault_id}"

        def decode(body: bytes) -> VaultNotes:
            return self._workshop.decode(len(body), lambda: decode_vault(body, where))

        def decode_and_finish(body: bytes) -> T:
            return self._workshop.decode(len(body), lambda: finished(decode_vault(body, where)))

        def finished(content: VaultNotes) -> T:
            return finish(content, self._remarks_on(vault_id, content, ()))

        if self._options.consistency == "single":
            return self._hub.read_export(self.user_id, vault_id, decode_and_finish)
        first = self._hub.read_export(self.user_id, vault_id, decode)
        second = self._hub.read_export(self.user_id, vault_id, decode, independent=True)
        content, disagreements = settle((first, second))
        if disagreements:
            third = self._hub.read_export(self.user_id, vault_id, decode)
            content, disagreements = settle((first, second, third))
        return finish(content, self._remarks_on(vault_id, content, disagreements))

    def _remarks_on(self, vault_id: str, content: VaultNotes, disagreements: Sequence[Disagreement]) -> list[Remark]:
        remarks = [Remark(finding=finding) for finding in content.findings]
        for item in disagreements:
            message = "readings of this note differ; " + (
                "two of three agree and count" if item.settled else "no two agree, the last one counts"
            )
            facts = {"vault": vault_id, "path": item.path, "settled": item.settled}
            remarks.append(self._remark("readings_differ", vault_id, message, **facts))
        limit = self._workshop.reply_limit_bytes
        if content.reply_bytes > limit * _FORECAST_PERCENT // 100:
            message = (
                f"its export has {content.reply_bytes} bytes; beyond {limit} "
                "it cannot be read in one reply: take canister snapshots as well"
            )
            remarks.append(self._remark("vault_size", vault_id, message, vault=vault_id, bytes=content.reply_bytes))
        return remarks

    # -- vaults too large for one reply (HUB-19) ----------------------------------------------------------------------

    def _too_large(self, vault_id: str, error: BackupError) -> Done[Piece]:
        known = self._options.known_paths
        paths = dict.fromkeys(known(self.user_id, vault_id)) if known else {}
        if not paths:
            advice = "if this vault has outgrown a query reply, take a canister snapshot or pass known_paths"
            error.hint = f"{error.hint}; {advice}" if error.hint else advice
            return Done((self._problem("vault", error, vault_id=vault_id),))
        with self._lock:
            if not self._form.sorted:
                self.content.add_vault(vault_id)
            self.partial_vaults.append(vault_id)
        message = (
            f"the vault cannot be read whole ({error.kind}); {len(paths)} notes known from earlier are read singly"
        )
        problem = Problem(what="vault", vault_id=vault_id, kind="vault_partial", message=message, hint=error.hint)
        ordered = sorted(paths, key=_utf8) if self._form.sorted else list(paths)
        notes = [Step[Piece](functools.partial(self._note, vault_id, path)) for path in ordered]
        return Done((problem, self._form.vault_open(self.user_id, vault_id)), notes)

    def _note(self, vault_id: str, path: str) -> Done[Piece]:
        try:
            note = self._hub.note(self.user_id, vault_id, path)
        except BackupError as error:
            if error.kind != "not_found":
                return Done((self._problem("note", error, vault_id=vault_id, name=path),))
            # An ASCII path that is not found was deleted since it became known; of others nobody can tell.
            return Done(() if path.isascii() else (_unreadable(vault_id, path),))
        if note.path != path:  # decoded as Latin-1, the path can be that of another note
            return Done((_unreadable(vault_id, path),))
        with self._lock:
            self.content.add_note(vault_id, note)
        part = self._form.note(self.user_id, vault_id, note)
        return Done((part,), size_bytes=part.size_bytes)

    # -- proposals ----------------------------------------------------------------------------------------------------

    def _list(self, vault_id: str) -> Done[Piece]:
        try:
            stubs = self._hub.proposal_stubs(self.user_id, vault_id)
        except BackupError as error:
            return Done((self._problem("proposals", error, vault_id=vault_id),))
        # Of the sixteen keys only these are needed again; a full list may hold many thousands.
        short = tuple({key: stub[key] for key in _STUB_KEYS if key in stub} for stub in stubs.stubs)
        self._lists[vault_id] = attrs.evolve(stubs, stubs=short)
        return Done(tuple(Remark(finding=finding) for finding in stubs.findings))

    def _plan(self, order: Sequence[str]) -> Done[Piece]:
        """
        Decide which proposals to read, over all vaults of the tenant (contracts 1.6).

        Same id and vault: the later entry replaces the earlier one at its place. Same id, other vault: both stay.
        """
        planned: dict[tuple[str, str], _Planned] = {}
        vaults_of: dict[str, set[str]] = {}
        repeated: dict[str, None] = {}
        for visited in order:
            stubs = self._lists.pop(visited, StubList(stubs=()))
            self.proposals_without_id += stubs.without_id
            here: set[tuple[str, str]] = set()
            for stub in stubs.stubs:
                own = stub.get("vault_id")
                vault_id = own if isinstance(own, str) and own.strip() else visited
                key = (vault_id, proposal_id_of(stub))
                if key in here:
                    repeated[key[1]] = None
                here.add(key)
                planned[key] = _Planned(visited=visited, key=key, stub=stub)
                vaults_of.setdefault(key[1], set()).add(vault_id)
        remarks: list[Piece] = []
        for proposal_id, vaults in vaults_of.items():
            if len(vaults) > 1:
                message = f"proposal {proposal_id} exists in {len(vaults)} vaults with the same id; all are kept"
                remarks.append(self._remark("proposal_collision", "", message, proposal=proposal_id))
        for proposal_id in repeated:
            message = f"the list names proposal {proposal_id} twice; the hub returns only one of them"
            remarks.append(self._remark("proposal_repeated", "", message, proposal=proposal_id))
        if self._form.sorted:
            planned = dict(sorted(planned.items(), key=lambda item: tuple(map(_utf8, item[0]))))
        steps = [Step[Piece](functools.partial(self._proposal, item)) for item in planned.values()]
        return Done(tuple(remarks), steps)

    def _proposal(self, planned: _Planned) -> Done[Piece]:
        asked = planned.key[1]
        try:
            parsed = self._hub.proposal(self.user_id, planned.visited, planned.stub)
        except BackupError as error:
            return Done((self._problem("proposal", error, vault_id=planned.visited, name=asked),))
        pieces: list[Piece] = []
        proposal = parsed.proposal
        if not proposal_id_of(proposal):
            with self._lock:
                self.proposals_without_id += 1
            return Done()
        if self._form.sorted and (proposal_vault_of(proposal), proposal_id_of(proposal)) != planned.key:
            message = f"proposal {asked} names another id or vault than the list it was found in"
            mismatch = ExportError(message, kind="proposal_mismatch")
            return Done((self._problem("proposal", mismatch, vault_id=planned.visited, name=asked),))
        if proposal_id_of(proposal) != asked:
            message = f"asked for proposal {asked}, the hub sent {proposal_id_of(proposal)[:100]!r}; kept as sent"
            pieces.append(self._remark("proposal_mismatch", planned.visited, message, proposal=asked))
        if parsed.raw is not None:
            pieces.append(RawReply(vault_id=planned.visited, proposal_id=asked, content=parsed.raw))
        with self._lock:
            self.content.add_proposal(proposal)
        part = self._form.proposal(self.user_id, proposal)
        return Done((*pieces, part), size_bytes=part.size_bytes + len(parsed.raw or b""))

    # -- helpers ------------------------------------------------------------------------------------------------------

    def _problem(self, what: str, error: BackupError, *, vault_id: str = "", name: str = "") -> Problem:
        """Return what failed as a value when the run is to go on, and raise it otherwise."""
        if self._options.on_error == "fail" or not isinstance(error, SourceError) or error.kind in _FOR_EVERYONE:
            error.context.setdefault("user_id", self.user_id)
            if vault_id:
                error.context.setdefault("vault_id", vault_id)
            raise error
        return Problem(what=what, vault_id=vault_id, name=name, kind=error.kind, message=error.message, hint=error.hint)

    def _remark(self, code: str, vault_id: str, message: str, **facts: object) -> Remark:
        where = f"{self.user_id}/{vault_id}" if vault_id else self.user_id
        return Remark(
            finding=Finding(code=code, where=where, message=message), facts={"user_id": self.user_id, **facts}
        )


_FOR_EVERYONE = frozenset({"gateway_auth", "tls"})
"""Failures that no other tenant would escape."""


def _unreadable(vault_id: str, path: str) -> Problem:
    message = (
        "the hub finds no single note whose path has non-ASCII characters, so nobody knows whether it still exists"
    )
    return Problem(what="note", vault_id=vault_id, name=path, kind="note_unreadable", message=message)


def _may_be_too_large(error: BackupError) -> bool:
    """Tell whether a vault's export fails the way an over-long reply does: too many bytes, or 5xx every time."""
    if error.kind == "reply_too_large":
        return True
    lasting = isinstance(error, SourceUnavailableError) and "retry_budget_spent" not in error.context
    status = error.context.get("status")
    return lasting and isinstance(status, int) and status >= 500


def _utf8(text: str) -> bytes:
    """Return the bytes text sorts by in records."""
    return text.encode("utf-8", "surrogatepass").replace(b"\x00", b"\x00\xff")
