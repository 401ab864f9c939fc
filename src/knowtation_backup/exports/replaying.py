"""
Checking a certified export offline: the evidence beside it and the payload, against nothing but the network's root key.

First every reply is checked for itself: the certificate, whose answer it is, and to which question. Then the export is
made again from these replies alone, by the same code, and compared with the payload byte by byte. So whatever stands in
the payload was signed by the subnet, nothing of what it signed was left out, and no page is missing.
"""

from __future__ import annotations

import collections
import contextlib
import datetime as dt
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import attrs

from ..contracts import Capture, ignore_events
from ..errors import BackupError, ConfigurationError, IntegrityError, RejectedError, SourceError
from ..hub.address import HubAddress
from ..hub.carrier import HubRequest
from ..hub.client import HubClient
from ..hub.encoding import secret_text
from ..hub.limits import HubLimits
from ..ic.certificate import MAINNET_ROOT_KEY
from ..ic.delegations import root_key_der
from ..model.ids import Principal
from ..model.moments import parse_iso
from ..model.reports import Finding
from .attestations import ATTESTATION_KIND, AttestationCapture
from .capture import ExportCapture
from .certified import RecordedOptions
from .evidence import EvidenceFile, EvidenceRecord
from .forms import Form, FullForm, RecordsForm, SingleVaultForm
from .options import ExportOptions
from .questions import CalledHub, Question

__all__ = ["EvidenceReport", "verify_export_evidence"]

_HTTP_METHODS: Final = frozenset({"http_request", "http_request_update"})
_MAX_FINDINGS: Final = 1000
_PLACEHOLDER: Final = "not-the-key"
"""Stands where a secret was; replies are found without it."""


@attrs.frozen(kw_only=True)
class EvidenceReport:
    """What the evidence of an export proves; `ok` when the payload is what it should be."""

    kind: str
    """Of the payload."""
    canister_id: Principal
    """Whose subnet signed the replies."""
    sender: Principal
    """Who asked."""
    replies: int
    certified_from: dt.datetime | None
    """Earliest time the subnet certified; `None` when no reply verified."""
    certified_to: dt.datetime | None
    complete: bool
    """Whether the replies hold all that the export set out to read."""
    secrets_checked: bool
    """Whether the arguments of all calls are known in full. Otherwise those with a secret are known up to its value."""
    findings: tuple[Finding, ...] = ()
    """``evidence_reply``: a reply does not verify. ``evidence_question``: it answers another question.
    ``evidence_payload``: the payload is not what the replies make. ``evidence_unused``: a reply that no such export
    asks for."""

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against the payload; whether it is complete is another question."""
        return not self.findings

    def raise_for_findings(self) -> None:
        """Raise `IntegrityError` of kind ``evidence`` when there are findings."""
        if self.findings:
            first = self.findings[0]
            message = f"the evidence does not prove the payload: {first.where}: {first.message}"
            if len(self.findings) > 1:
                message += f", and {len(self.findings) - 1} more"
            raise IntegrityError(message, kind="evidence")

    def __str__(self) -> str:
        """Return a line for people, and one per finding."""
        verdict = "proven by" if self.ok else "NOT proven by"
        lines = [f"{self.kind} is {verdict} {self.replies} replies of {self.canister_id}"]
        if self.certified_from is not None and self.certified_to is not None:
            lines[0] += f", certified from {self.certified_from:%Y-%m-%d %H:%M:%S} to {self.certified_to:%H:%M:%S} UTC"
        lines += [f"{finding.code} {finding.where}: {finding.message}" for finding in self.findings]
        return "\n".join(lines)


def verify_export_evidence(  # noqa: PLR0913 - evidence and payload, the rest optional
    evidence: bytes | Iterable[bytes],
    payload: bytes | Iterable[bytes],
    *,
    root_key: bytes | str = MAINNET_ROOT_KEY,
    canister_id: Principal | str | None = None,
    operator_key: str | None = None,
    gateway_secret: str | None = None,
) -> EvidenceReport:
    """
    Check the payload of a certified export against its evidence. Needs no network.

    Memory: the evidence once, one reply at a time.

    Args:
        evidence: The side file ``certified-replies.bin``.
        payload: The plain payload, whole or in chunks of any size.
        root_key: Of the network, in DER form or as hexadecimal digits.
        canister_id: Whose replies are expected; `None` for whatever canister the evidence names.
        operator_key: With it (and the gateway secret, where the hub has one), the arguments of the calls are checked to
            the last byte. Without, that those who made the export asked what the evidence says is as they signed it.
        gateway_secret: See *operator_key*.

    Raises:
        UnsupportedFormatError: This is no evidence of an export.
        IntegrityError: Kind ``bad_evidence``: it is damaged or malformed.
    """
    data = evidence if isinstance(evidence, bytes) else b"".join(evidence)
    chunks = (payload,) if isinstance(payload, bytes) else payload
    file = EvidenceFile.parse(data)
    given = {
        "x-operator-export-key": secret_text(operator_key, "operator_key"),
        "x-gateway-auth": secret_text(gateway_secret, "gateway_secret"),
    }
    secrets = {name: value for name, value in given.items() if value is not None}
    expected = None if canister_id is None else Principal.parse(canister_id)
    return _Check(file=file, root_key=root_key_der(root_key), secrets=secrets, expected=expected).report(chunks)


@attrs.define(kw_only=True, eq=False)
class _Check:
    file: EvidenceFile
    root_key: bytes
    secrets: Mapping[str, str]
    expected: Principal | None
    run: bytes = attrs.field(init=False)
    findings: list[Finding] = attrs.field(factory=list)

    def report(self, payload: Iterable[bytes]) -> EvidenceReport:
        header = self.file.header
        self.run = header.digest
        if self.expected is not None and self.expected != header.canister_id:
            self._remark("evidence_reply", "header", f"the replies are of {header.canister_id}, not of {self.expected}")
        times: list[dt.datetime] = []
        unknown = 0
        for record in self.file.records:
            unknown += not set(record.question.secret_names) <= self.secrets.keys()
            moment = self._reply(record)
            if moment is not None:
                times.append(moment)
        replay = _Replay(self.file)
        complete = self._compare(payload, replay)
        return EvidenceReport(
            kind=header.kind,
            canister_id=header.canister_id,
            sender=header.sender,
            replies=len(self.file.records),
            certified_from=min(times, default=None),
            certified_to=max(times, default=None),
            complete=complete and not self.findings,
            secrets_checked=not unknown,
            findings=tuple(self.findings),
        )

    def _remark(self, code: str, where: str, message: str) -> None:
        if len(self.findings) < _MAX_FINDINGS:
            self.findings.append(Finding(code=code, where=where, message=message))

    def _reply(self, record: EvidenceRecord) -> dt.datetime | None:
        """Check one reply for itself; return when it was certified."""
        header, call, question = self.file.header, record.evidence, record.question
        named = (call.canister_id, call.effective_canister_id, call.sender, call.method_name)
        if named != (header.canister_id, header.canister_id, header.sender, question.method):
            self._remark("evidence_question", _where(record), "another canister, sender or method was called")
            return None
        if call.nonce != question.commitment(self.run, record.number):
            message = "the call was made for another question, export, or place in it"
            self._remark("evidence_question", _where(record), message)
            return None
        known = set(question.secret_names) <= self.secrets.keys()
        arg = question.full_arg(self.secrets) if known else None
        if question.secret_names and arg is not None and hashlib.sha256(arg).digest() != record.arg_sha256:
            self._remark(
                "evidence_question", _where(record), "the argument of the call was not made with these secrets"
            )
            return None
        try:
            return call.check(
                arg=arg,
                arg_sha256=None if known else record.arg_sha256,
                reply=record.reply(),
                root_key=self.root_key,
            )
        except IntegrityError as error:
            self._remark("evidence_reply", _where(record), f"{error.kind}: {error.message}")
            return None

    # The export, once more

    def _compare(self, payload: Iterable[bytes], replay: _Replay) -> bool:
        with contextlib.ExitStack() as stack:
            return self._compare_with(payload, self._capture(replay, stack), replay)

    def _capture(self, replay: _Replay, stack: contextlib.ExitStack) -> Capture:
        try:
            return _capture(self.file, replay, stack)
        except (KeyError, TypeError, ValueError, AttributeError, ConfigurationError) as error:
            message = f"the options of the export cannot be used: {type(error).__name__}"
            raise IntegrityError(message, kind="bad_evidence") from error

    def _compare_with(self, payload: Iterable[bytes], capture: Capture, replay: _Replay) -> bool:
        position = 0
        ours = _Chunks(capture.chunks())
        try:
            for theirs in payload:
                same = ours.common(theirs)
                position += same
                if same < len(theirs):
                    return self._differs(position)
            if not ours.ended:
                return self._differs(position)
        except _NotMadeError as error:
            message = f"from these replies no such export can be made: {error}"
            self._remark("evidence_payload", "payload", message)
            return False
        finally:
            ours.close()
        for record in replay.unused():
            self._remark("evidence_unused", _where(record), "an export with these options does not ask this")
        return capture.result().complete

    def _differs(self, position: int) -> bool:
        message = f"from byte {position} on the payload is not what the replies make"
        self._remark("evidence_payload", "payload", message)
        return False


def _where(record: EvidenceRecord) -> str:
    question = record.question
    ids = [value for name, value in question.headers if name in {"x-user-id", "x-vault-id"} and value is not None]
    named = f" of {'/'.join(ids)}" if ids else ""
    return f"reply {record.number} ({question.url or question.method}{named})"[:300]


class _Replay:
    """Answers questions from records: each once, in the order in which they were asked."""

    def __init__(self, file: EvidenceFile) -> None:
        self._read_singly = file.known_paths.keys()
        self._left: dict[Question, collections.deque[EvidenceRecord]] = {}
        for record in file.records:
            self._left.setdefault(record.question, collections.deque()).append(record)

    def __call__(
        self,
        question: Question,
        *,
        secrets: Mapping[str, str],
        request: HubRequest | None = None,
    ) -> memoryview:
        del secrets, request
        waiting = self._left.get(question)
        if not waiting:
            message = f"the evidence holds no reply to {question.url or question.method}"
            headers = dict(question.headers)
            if (headers.get("x-user-id"), headers.get("x-vault-id")) in self._read_singly:
                # Its paths were looked up, which happens only after that; what is then read must be in the evidence.
                raise RejectedError(message, kind="reply_too_large")
            raise SourceError(message, kind="not_in_evidence")
        return memoryview(waiting.popleft().reply())

    def secret_names(self) -> frozenset[str]:
        """Return the names of all headers whose values are left out."""
        return frozenset(name for question in self._left for name in question.secret_names)

    def unused(self) -> Iterator[EvidenceRecord]:
        """Yield the records nobody asked for."""
        yield from itertools.chain.from_iterable(self._left.values())


class _NotMadeError(Exception):
    """The replies do not make an export."""


class _Chunks:
    """A stream of chunks that is compared with another one piece by piece."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def common(self, data: bytes) -> int:
        """Return how many bytes of *data* come next; they are gone then."""
        done = 0
        while done < len(data) and not self.ended:
            part = self._rest[: len(data) - done]
            expected = data[done : done + len(part)]
            if part != expected:
                return done + next(
                    i for i, (ours, theirs) in enumerate(zip(part, expected, strict=True)) if ours != theirs
                )
            done += len(part)
            self._rest = self._rest[len(part) :]
        return done

    @property
    def ended(self) -> bool:
        """Whether nothing comes any more."""
        try:
            while not self._rest and (chunk := next(self._chunks, None)) is not None:
                self._rest = chunk
        except BackupError as error:  # told apart from what reading the payload raises
            raise _NotMadeError(f"{error.kind}: {error.message}") from error
        return not self._rest

    def close(self) -> None:
        """End the stream, and the threads behind it."""
        close: Callable[[], None] | None = getattr(self._chunks, "close", None)
        if close is not None:
            close()


def _capture(file: EvidenceFile, replay: _Replay, stack: contextlib.ExitStack) -> Capture:
    header = file.header
    taken_at = parse_iso(header.exported_at)
    if header.kind == ATTESTATION_KIND:
        return AttestationCapture(
            lambda method, arg: replay(Question(method=method, arg=arg), secrets={}),
            canister_id=str(header.canister_id),
            taken_at=taken_at,
        )
    recorded = RecordedOptions.from_json(header.options)
    known = file.known_paths
    options = ExportOptions(
        on_error=recorded.on_error,
        consistency=recorded.consistency,
        payload="records" if header.kind == RecordsForm.kind else "full",
        extra_users=recorded.extra_users,
        extra_vaults=recorded.extra_vaults,
        extra_vaults_of=recorded.extra_vaults_of,
        index_page_size=recorded.index_page_size,
        concurrency=1,
        raw_replies_bytes=1 << 40,
        known_paths=lambda user_id, vault_id: known.get((user_id, vault_id), ()),
    )
    form: Form = RecordsForm() if options.payload == "records" else FullForm()
    if recorded.only is not None:
        form = SingleVaultForm(recorded.only[1])
    if form.kind != header.kind:
        message = f"there is no export of kind {header.kind!r:.80}"
        raise ConfigurationError(message)
    withheld = replay.secret_names()
    hub = HubClient(
        HubAddress(scheme="http", host=f"{header.canister_id}.localhost"),  # never asked: the replay is its carrier
        operator_key=_PLACEHOLDER,
        gateway_secret=_PLACEHOLDER if "x-gateway-auth" in withheld else None,
        limits=HubLimits(reply_bytes=recorded.reply_bytes),
    )
    stack.callback(hub.close)
    return ExportCapture(
        hub=hub,
        options=options,
        form=form,
        taken_at=taken_at,
        observer=ignore_events,
        monotonic=lambda: 0.0,
        only=recorded.only,
        carrier=CalledHub(replay, header.canister_id.raw, recorded.reply_bytes),
    )
