"""
One update call from signature to certified outcome.

A call changes the world, so the one question that matters after a failure is whether it ran. The network executes a
signed envelope at most once, whoever sends it how often, and forgets it only after its expiry. Therefore:

- a lost answer is followed by the *identical* envelope, never by a new one;
- when that does not help, the state is asked for the call's fate until it is certified, or certainly never comes;
- a new envelope is made only when the former one is certified to have been refused, or never to have run;
- what nobody signed (HTTP texts, rejections before consensus) ends a call only if nothing was sent before it that may
  have run.

Source:
    IC interface specification, "Request: Call", "Request: Read state"; internet-computer reference, A.5, A.6, B.6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from ..errors import BackupError, CertificateError, OutcomeUnknownError, RejectedError, SourceUnavailableError
from ..model.events import Event
from ..model.ids import Principal
from .answers import is_overload, malformed, may_have_passed, outer_map
from .certificate import Certificate
from .evidence import CertifiedReply
from .hash_tree import Absent, Found
from .link import Link, OnRetry, joined, passing
from .rejections import PASSING, RATE_LIMITED, rejection
from .sending import Waiting
from .wire import Buffer, SignedRequest, leb128_decode

__all__ = ["CallRun"]

_MARGIN_NS: Final = 5 * 10**9
"""An envelope so close to its expiry is not sent any more."""
_FORGOTTEN_NS: Final = 300 * 10**9
"""How long after a call's expiry the network surely remembers its outcome."""
_RESEND_SECONDS: Final = 10.0
"""An accepted call that the state does not know after this time is sent again."""
_POLL_GROWTH: Final = 1.4
_NOT_SENT: Final = frozenset({"unreachable", "tls", "not_sendable"})
"""Failures after which the request certainly has not left."""


@attrs.define(kw_only=True)
class _Message:
    """One signed envelope and what is known about its way."""

    request: SignedRequest
    uncertain: bool = False
    """Whether it may have reached the network."""

    @property
    def expiry_ns(self) -> int:
        return int(self.request.content["ingress_expiry"])


class _NeverRanError(Exception):
    """The network certified that it will never execute the message."""

    only_refused: bool = False
    """Whether the message was never even taken: going on is what the caller waits for."""


@attrs.define(kw_only=True)
class CallRun:
    """One call; `run` once."""

    link: Link
    canister_id: Principal
    effective_id: Principal
    method: str
    arg: Buffer | Sequence[Buffer] = attrs.field(repr=False)
    repeatable: bool
    waiting: Waiting
    on_retry: OnRetry | None
    nonce: bytes | None = None
    _message: _Message = attrs.field(init=False)
    _failed: int = attrs.field(init=False, default=0)
    """Attempts that failed, for growing delays."""
    _refusal: BackupError | None = attrs.field(init=False, default=None)
    """The last of them."""

    @property
    def _route(self) -> str:
        return f"call {self.method} of {self.effective_id}"

    def run(self) -> CertifiedReply:
        """Return the certified reply; see `Agent.call` for the errors."""
        with self.link.signatures.one_call():
            return self._run()

    def _run(self) -> CertifiedReply:
        self._renew()
        try:
            while True:
                try:
                    return self._delivered()
                except RejectedError as error:
                    # Certified: this envelope has its final answer, and the next one asks anew.
                    if not (error.certified and error.kind in PASSING) or not self._paused(error):
                        raise
                except _NeverRanError as never:
                    if not (self.repeatable or never.only_refused):
                        raise self._never_ran() from None
                self._renew()
        except BackupError as error:
            if self._message.uncertain and not error.context.get("certified"):
                error.context["may_have_run"] = True
            raise

    def _renew(self) -> None:
        fields: dict[str, Any] = {"canister_id": self.canister_id.raw, "method_name": self.method, "arg": self.arg}
        if self.nonce is not None:
            fields["nonce"] = self.nonce
        self._message = _Message(request=self.link.signed("call", fields))

    # -- sending ------------------------------------------------------------------------------------------------------

    def _delivered(self) -> CertifiedReply:
        """Send the present envelope until its outcome is known."""
        broken = 0
        last: BackupError | None = None
        while self.link.now_ns() <= self._message.expiry_ns - _MARGIN_NS:
            try:
                reply = self._sent()
            except (SourceUnavailableError, RejectedError) as error:
                if error.context.get("certified"):
                    raise
                broken = 0 if is_overload(error) or error.kind == RATE_LIMITED else broken + 1
                if passing(error) and broken < self.link.retry.attempts and self._paused(error):
                    continue
                if self.repeatable or not self._message.uncertain:
                    raise
                reply, last = None, error  # what was sent before may run all the same
            return reply if reply is not None else self._asked(last)
        return self._expired()

    def _sent(self) -> CertifiedReply | None:
        """Send the present envelope once; `None` when the network took it, but its outcome is not known yet."""
        message, link = self._message, self.link
        self.waiting.cancellation.check()
        before = message.uncertain
        message.uncertain = True  # until something says otherwise
        try:
            answer = link.post(
                "call", link.calls, self.effective_id, message.request.parts, route=self._route, waiting=self.waiting
            )
        except BackupError as error:
            message.uncertain = before or error.kind not in _NOT_SENT
            raise
        if answer.status == 202:
            return None
        if answer.status != 200:
            message.uncertain = before or may_have_passed(answer)
            raise link.refusal(answer, joined(self.arg))
        fields = outer_map(answer.body, route=self._route)
        if fields.get("status") == "non_replicated_rejection" or "reject_code" in fields:
            refused = self._uncertified(fields)
            message.uncertain = before
            raise refused
        return self._read(fields)

    def _uncertified(self, fields: Mapping[str, Any]) -> RejectedError:
        code, text, name = fields.get("reject_code"), fields.get("reject_message"), fields.get("error_code")
        if not isinstance(code, int) or not isinstance(text, str) or not isinstance(name, str | None):
            raise malformed(self._route, "its rejection is incomplete")
        return rejection(
            what=self._route, reject_code=code, message=text, error_code=name, certified=False, arg=joined(self.arg)
        )

    # -- outcomes -----------------------------------------------------------------------------------------------------

    def _read(self, fields: Mapping[str, Any]) -> CertifiedReply | None:
        """Return the reply from a synchronous answer; `None` when the call has no outcome yet."""
        found = fields.get("certificate")
        if not isinstance(found, memoryview):
            raise malformed(self._route, "it holds neither a certificate nor a rejection")
        certificate = self.link.verified(found, self.effective_id, self.waiting)
        status = self._status(certificate)
        if status is None:
            raise self._path_error("is not in the certificate of the answer")
        return self._outcome(certificate, status)

    def _status(self, certificate: Certificate) -> str | None:
        """Return the certified state of the call; `None` when it is certified to be unknown to the network."""
        found = certificate.lookup(b"request_status", self._message.request.request_id, b"status")
        if isinstance(found, Absent):
            return None
        if not isinstance(found, Found):
            raise self._path_error("is left out of the certificate")
        return bytes(found.value[:32]).decode("ascii", "replace")

    def _outcome(self, certificate: Certificate, status: str) -> CertifiedReply | None:
        request = self._message.request
        if status in {"received", "processing"}:
            return None
        if status == "replied":
            reply = self._leaf(certificate, b"reply")
            return CertifiedReply(
                reply=reply,
                certificate=certificate,
                content=request.content,
                request_id=request.request_id,
                effective_canister_id=self.effective_id,
            )
        if status == "rejected":
            self._message.uncertain = False
            raise self._certified_rejection(certificate)
        if status == "done":
            message = f"{self._route} was executed, but the network no longer keeps its reply"
            hint = "look at the canister before repeating it"
            raise OutcomeUnknownError(message, kind="reply_dropped", hint=hint, route=self._route)
        raise self._path_error("has a state that nobody knows")

    def _certified_rejection(self, certificate: Certificate) -> RejectedError:
        below = (b"request_status", self._message.request.request_id)
        name = certificate.lookup(*below, b"error_code")
        if not isinstance(name, Found | Absent):
            raise self._path_error("has an error code that is left out of the certificate")
        code = self._leaf(certificate, b"reject_code")
        return rejection(
            what=self._route,
            reject_code=leb128_decode(code),
            message=bytes(self._leaf(certificate, b"reject_message")).decode("utf-8", "replace"),
            error_code=bytes(name.value).decode("ascii", "replace") if isinstance(name, Found) else None,
            certified=True,
            arg=joined(self.arg),
        )

    def _leaf(self, certificate: Certificate, label: bytes) -> memoryview:
        found = certificate.lookup(b"request_status", self._message.request.request_id, label)
        if not isinstance(found, Found):
            raise self._path_error(f"has no {label.decode()}")
        return found.value

    def _path_error(self, what: str) -> CertificateError:
        message = f"the certified state of {self._route} {what}"
        hint = "a node answered with a genuine certificate about something else; try another address"
        return CertificateError(message, kind="certificate_path", hint=hint, route=self._route)

    # -- asking afterwards --------------------------------------------------------------------------------------------

    def _expired(self) -> CertifiedReply:
        """Go on after the life of an envelope: a fresh one if it cannot matter, otherwise find out."""
        if self.repeatable:
            raise _NeverRanError
        uncertain = self._message.uncertain
        try:
            return self._asked(self._refusal)
        except _NeverRanError as never:
            never.only_refused = not uncertain
            raise

    def _asked(self, last: BackupError | None) -> CertifiedReply:
        """Ask the state for the fate of the present envelope until it is certain."""
        asked = 0
        delay = self.link.timeouts.first_poll_seconds
        seen = self.waiting.monotonic()  # when the state last knew the call, or it was sent
        while True:
            certificate = self._looked(delay, last)
            asked += 1
            delay = min(delay * _POLL_GROWTH, self.link.timeouts.max_poll_seconds)
            status = self._status(certificate)
            fields = {"method": self.method, "attempt": asked, "status": status or "unknown"}
            self.link.observer(Event(name="ic.poll", fields=fields))
            if status is not None:
                reply = self._outcome(certificate, status)
                if reply is not None:
                    return reply
                seen = self.waiting.monotonic()
            elif certificate.time_ns > self._message.expiry_ns:
                raise self._forgotten(certificate, last)
            elif self.waiting.monotonic() - seen > _RESEND_SECONDS:
                seen = self.waiting.monotonic()
                self._resend()

    def _looked(self, delay_seconds: float, last: BackupError | None) -> Certificate:
        """Wait, then return the certified state around the present envelope."""
        if delay_seconds >= self.waiting.left_seconds:
            raise self._out_of_time(last)
        self.link.pause(delay_seconds, self.waiting)
        paths = [(b"request_status", self._message.request.request_id)]
        failed = 0
        while True:
            try:
                return self.link.read_state(self.effective_id, paths, self.waiting, arg=self.arg)
            except (SourceUnavailableError, RejectedError) as error:
                failed += 1
                if not passing(error) or not self._paused(error, failed):
                    raise self._out_of_time(error) from error

    def _forgotten(self, certificate: Certificate, last: BackupError | None) -> Exception:
        """Return what it means that the state does not know the call after its expiry."""
        if certificate.time_ns > self._message.expiry_ns + _FORGOTTEN_NS:
            return self._out_of_time(last)
        self._message.uncertain = False
        return _NeverRanError()

    def _resend(self) -> None:
        """Send the identical envelope once more, in case the network lost it; its outcome is read elsewhere."""
        if self.link.now_ns() > self._message.expiry_ns - _MARGIN_NS:
            return
        try:
            self._sent()
        except (SourceUnavailableError, RejectedError) as error:
            if error.context.get("certified"):
                raise
            fields = {"method": self.method, "attempt": 1, "delay_seconds": 0.0, "kind": error.kind}
            self.link.observer(Event(name="ic.retry", fields=fields))

    # -- endings ------------------------------------------------------------------------------------------------------

    def _paused(self, error: BackupError, failed: int = 0) -> bool:
        """Wait before going on; `False` when there is no time for it."""
        self._failed += 1
        self._refusal = error
        return self.link.pause_after(
            error, failed or self._failed, method=self.method, waiting=self.waiting, on_retry=self.on_retry
        )

    def _out_of_time(self, last: BackupError | None) -> BackupError:
        """Return the error for a call whose fate could not be read in time."""
        if last is not None and (self.repeatable or not self._message.uncertain):
            return last  # it does not matter whether it ran, or it was only ever refused
        if self.repeatable:
            message = f"{self._route} had no outcome in time"
            hint = "try again later, or allow more time for it"
            return SourceUnavailableError(message, kind="timeout", hint=hint, route=self._route)
        self._message.uncertain = True
        why = f"; the last failure was: {last.message}" if last is not None else ""
        message = f"whether {self._route} was executed is not known{why}"
        hint = "look at the canister before repeating it"
        context = {"route": self._route, "request_id": self._message.request.request_id.hex()}
        return OutcomeUnknownError(message, kind="outcome_unknown", hint=hint, **context)

    def _never_ran(self) -> SourceUnavailableError:
        message = f"{self._route} was not executed and never will be: the network certified that it ran out of time"
        return SourceUnavailableError(message, kind="not_executed", hint="it is safe to call again", route=self._route)
