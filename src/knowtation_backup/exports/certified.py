"""
Certified reads: every reply of a canister is obtained by a replicated call, verified, and kept with its evidence.

A query is answered by one node alone. The same method called by ingress runs on every node of the subnet, and the
subnet signs the answer. It costs a round of consensus and some cycles, and needs no gateway.
"""

from __future__ import annotations

import datetime as dt
import os
import threading
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeAlias, get_args

import attrs
import msgspec

from ..errors import ConfigurationError, OutcomeUnknownError, RejectedError
from ..hub.carrier import HubCarrier, HubRequest
from ..hub.client import HubClient
from ..ic.agent import Agent
from ..ic.evidence import CertifiedReply
from ..model.ids import Principal
from ..model.moments import iso_ms
from ..model.reports import SideFile
from .evidence import EVIDENCE_NAME, EvidenceHeader, EvidenceWriter
from .forms import Form
from .options import ExportOptions, KnownPaths
from .questions import CalledHub, Question

__all__ = ["CertifiedReads", "ExportMode", "HubReads", "RecordedOptions"]

ExportMode: TypeAlias = Literal["query", "certified"]
"""How replies are obtained: from one node through a gateway, or signed by the subnet."""

_RUN_ID_BYTES = 16
_ASKED_AT_MOST = 3
"""Calls for one reply, when the network executed the former ones but does not keep their replies."""
_TOO_MUCH = frozenset({"IC0504", "IC0522", "IC0524"})
"""Contract violated (an answer beyond 2 MiB among them), too many instructions, too much memory touched."""


@attrs.frozen(kw_only=True)
class CertifiedReads:
    """Asks one canister by replicated calls for one capture, and keeps what it said; an `Asking`."""

    agent: Agent
    canister_id: Principal
    writer: EvidenceWriter
    _known: dict[tuple[str, str], tuple[str, ...]] = attrs.field(factory=dict, init=False, repr=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    @classmethod
    def begin(  # noqa: PLR0913 - the parts of the header
        cls,
        agent: Agent,
        canister_id: Principal,
        *,
        kind: str,
        exported_at: str,
        limit_bytes: int,
        options: Mapping[str, Any] | None = None,
    ) -> CertifiedReads:
        """Return the reads of one capture; see `EvidenceHeader` for the arguments."""
        header = EvidenceHeader(
            kind=kind,
            canister_id=canister_id,
            sender=agent.sender,
            run_id=os.urandom(_RUN_ID_BYTES),
            exported_at=exported_at,
            options=options or {},
        )
        return cls(agent=agent, canister_id=canister_id, writer=EvidenceWriter(header, limit_bytes=limit_bytes))

    def __call__(
        self,
        question: Question,
        *,
        secrets: Mapping[str, str],
        request: HubRequest | None = None,
    ) -> memoryview:
        """
        Return the certified reply.

        Raises:
            RejectedError: Kind ``reply_too_large``: the canister cannot answer this within a replicated call.
            BackupError: What `Agent.call` raises, and `EvidenceWriter.add`.
        """
        arg = question.full_arg(secrets)
        for left in reversed(range(_ASKED_AT_MOST)):
            number = self.writer.next_number()
            try:
                reply = self._called(question, arg, number, request)
            except OutcomeUnknownError:  # of a read: its reply is lost, and the next one as good
                if not left:
                    raise
            else:
                self.writer.add(number, question, arg, reply)
                return reply.reply
        raise AssertionError  # pragma: no cover - the last turn returns or raises

    def _called(self, question: Question, arg: bytes, number: int, request: HubRequest | None) -> CertifiedReply:
        try:
            return self.agent.call(
                self.canister_id,
                question.method,
                arg,
                repeatable=True,
                nonce=question.commitment(self.writer.run, number),
                deadline_seconds=None if request is None else request.timeout_seconds,
                cancellation=None if request is None else request.cancellation,
                on_retry=None if request is None else request.on_retry,
            )
        except RejectedError as error:
            if error.certified and error.context.get("error_code") in _TOO_MUCH:
                hint = "a replicated call returns at most 2 MiB and a query 3 MiB: read notes singly, or by queries"
                raise RejectedError(error.message, kind="reply_too_large", hint=hint, **error.context) from error
            raise

    def details(self) -> dict[str, Any]:
        """Return what the details of a capture say about its reads."""
        first, last = self.writer.certified_from, self.writer.certified_to
        return {
            "canister_id": str(self.canister_id),
            "sender": str(self.writer.header.sender),
            "replies": self.writer.replies,
            "certified_from": None if first is None else iso_ms(first),
            "certified_to": None if last is None else iso_ms(last),
            "evidence": EVIDENCE_NAME,
        }

    def noting(self, known_paths: KnownPaths | None) -> KnownPaths | None:
        """Return *known_paths* such that its answers are in the evidence: they decide what was asked for."""
        if known_paths is None:
            return None

        def noted(user_id: str, vault_id: str) -> Iterable[str]:
            paths = tuple(dict.fromkeys(known_paths(user_id, vault_id)))
            with self._lock:
                self._known[user_id, vault_id] = paths
            return paths

        return noted

    def side_file(self) -> SideFile:
        """Return the evidence; call it once, at the end."""
        known = [[*vault, list(paths)] for vault, paths in sorted(self._known.items())]
        return SideFile(name=EVIDENCE_NAME, content=self.writer.finish(known))


@attrs.frozen(kw_only=True)
class HubReads:
    """How an exporter reads its hub; `for_mode` checks that nothing is missing."""

    agent: Agent | None = None
    canister_id: Principal | None = None

    @classmethod
    def for_mode(
        cls, mode: ExportMode, hub: HubClient, options: ExportOptions, *, agent: Agent | None, canister_id: str | None
    ) -> HubReads:
        """
        Return the way of *mode*.

        Raises:
            ConfigurationError: The mode is unknown, or what it needs is missing or superfluous: certified reads are
                never replaced by others.
        """
        if mode not in get_args(ExportMode):
            message = f"an export has no mode {mode!r:.40}"
            raise ConfigurationError(message, kind="bad_option", hint='it is "query" or "certified"')
        if mode == "query":
            if agent is not None or canister_id is not None:
                message = "an agent or canister id was given to an export that would not use it"
                raise ConfigurationError(message, kind="bad_option", hint='say mode="certified"')
            return cls()
        if agent is None:
            message = "a certified export calls the hub's canister, and needs an agent for that"
            raise ConfigurationError(message, kind="agent_missing", hint="pass agent=Agent(…)")
        canister_id = canister_id or hub.address.canister_id
        if canister_id is None:
            message = f"the address {hub.address.host} does not say which canister the hub is"
            hint = "pass canister_id=, or use an address that holds it"
            raise ConfigurationError(message, kind="no_canister_id", hint=hint)
        if options.previous is not None:
            message = "a certified export cannot take tenants over from an earlier one"
            hint = "their replies are not in its evidence: leave previous= out"
            raise ConfigurationError(message, kind="certified_resume", hint=hint)
        return cls(agent=agent, canister_id=Principal.parse(canister_id))

    def begin(
        self, hub: HubClient, options: ExportOptions, form: Form, taken_at: dt.datetime, only: tuple[str, str] | None
    ) -> tuple[ExportOptions, CertifiedReads | None, HubCarrier | None]:
        """Return options, evidence and carrier of one capture; the latter are `None` in query mode."""
        if self.agent is None or self.canister_id is None:
            return options, None, None
        reads = CertifiedReads.begin(
            self.agent,
            self.canister_id,
            kind=form.kind,
            exported_at=iso_ms(taken_at),
            limit_bytes=options.evidence_bytes,
            options=RecordedOptions.of(options, reply_bytes=hub.limits.reply_bytes, only=only).to_json(),
        )
        carrier = CalledHub(reads, self.canister_id.raw, hub.limits.reply_bytes)
        return attrs.evolve(options, known_paths=reads.noting(options.known_paths)), reads, carrier


class RecordedOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What of the options decides which requests an export makes; in `EvidenceHeader.options`."""

    on_error: Literal["fail", "continue"]
    consistency: Literal["single", "double"]
    extra_users: list[str]
    extra_vaults: list[str]
    extra_vaults_of: dict[str, list[str]]
    index_page_size: Annotated[int, msgspec.Meta(ge=1)]
    reply_bytes: Annotated[int, msgspec.Meta(ge=1)]
    only: tuple[str, str] | None
    """Tenant and vault of the export of a single vault."""

    @classmethod
    def of(cls, options: ExportOptions, *, reply_bytes: int, only: tuple[str, str] | None) -> RecordedOptions:
        """Return what is to be recorded."""
        return cls(
            on_error=options.on_error,
            consistency=options.consistency,
            extra_users=list(options.extra_users),
            extra_vaults=list(options.extra_vaults),
            extra_vaults_of={user_id: list(vaults) for user_id, vaults in options.extra_vaults_of.items()},
            index_page_size=options.index_page_size,
            reply_bytes=reply_bytes,
            only=only,
        )

    @classmethod
    def from_json(cls, value: object) -> RecordedOptions:
        """Return the options of a header; raises `ValueError` when they are not of this form."""
        try:
            return msgspec.convert(value, cls)
        except msgspec.ValidationError as error:
            raise ValueError(str(error)) from error

    def to_json(self) -> dict[str, Any]:
        """Return the object a header holds."""
        return {
            **{name: getattr(self, name) for name in self.__struct_fields__},
            "only": None if self.only is None else list(self.only),
        }
