"""
Reading a hub by calls to its canister instead of through an HTTP gateway.

A request becomes the Candid message that a gateway would send. What is asked, without its secrets, is a `Question`;
who answers it is somebody else's business: the network (`certified`), or evidence kept earlier (`replaying`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final, Protocol

import attrs

from ..errors import ExportError
from ..hub.carrier import HubRequest
from ..hub.failures import HubReply
from ..ic.canister_http import decode_http_response, decode_streaming_chunk, http_request_arg

__all__ = ["Asking", "CalledHub", "Question"]

_SECRET_HEADERS: Final = frozenset({"x-operator-export-key", "x-gateway-auth"})
_MAX_CALLBACKS: Final = 1000
"""As many as gateways make."""
_COMMITMENT: Final = b"knowtation-backup certified read 1\0"


@attrs.frozen(kw_only=True)
class Question:
    """
    One call to a canister without its secrets: either an HTTP request (``url``), or any other method (``arg``).

    Attributes:
        method: Of the canister.
        url: Path and query of a request.
        headers: Of a request; the value of a secret is `None`.
        arg: Of any other method, Candid.
    """

    method: str
    url: str = ""
    headers: tuple[tuple[str, str | None], ...] = ()
    arg: bytes | None = None

    @property
    def secret_names(self) -> tuple[str, ...]:
        """Headers whose values are left out."""
        return tuple(name for name, value in self.headers if value is None)

    def full_arg(self, secrets: Mapping[str, str]) -> bytes:
        """Return the argument of the call, with the values of *secrets* where they belong and nothing for others."""
        if self.arg is not None:
            return self.arg
        headers = ((name, secrets.get(name, "") if value is None else value) for name, value in self.headers)
        return http_request_arg("GET", self.url, headers)

    def commitment(self, run: bytes, number: int) -> bytes:
        """
        Return the nonce of the call: a hash over the question, the run (`EvidenceHeader.digest`), and its number in it.

        The nonce is part of what the network certifies. So is the argument, but only who knows the secrets in it can
        tell what it was; this way everybody can, and no reply can stand in for another.
        """
        public = hashlib.sha256(self.full_arg({})).digest()
        return hashlib.sha256(_COMMITMENT + run + number.to_bytes(8, "big") + public).digest()

    def to_json(self) -> dict[str, Any]:
        """Return the object evidence holds."""
        if self.arg is not None:
            return {"method": self.method, "arg": self.arg.hex()}
        return {"method": self.method, "url": self.url, "headers": [list(header) for header in self.headers]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Question:
        """Return the question of `to_json`; raises `ValueError`, `KeyError` or `TypeError` for anything else."""
        if "arg" in value:
            return cls(method=_text(value["method"]), arg=bytes.fromhex(value["arg"]))
        headers = tuple((_text(name), None if text is None else _text(text)) for name, text in value["headers"])
        return cls(method=_text(value["method"]), url=_text(value["url"]), headers=headers)


def _text(value: object) -> str:
    if not isinstance(value, str):
        message = "not text"
        raise TypeError(message)
    return value


class Asking(Protocol):
    """Answers questions, from several threads at once."""

    def __call__(
        self, question: Question, *, secrets: Mapping[str, str], request: HubRequest | None = None
    ) -> memoryview:
        """Return the Candid reply, in the time that *request* allows; raises `BackupError` when there is none."""


@attrs.frozen
class CalledHub:
    """A `HubCarrier` that turns requests into calls; redirections to updates and streamed bodies are followed."""

    ask: Asking
    canister_id: bytes
    reply_bytes: int
    """Largest body that is put together from pieces."""

    def carry(self, request: HubRequest) -> HubReply:
        """Return the hub's reply; see `Asking` for the errors."""
        secrets = {name: value for name, value in request.headers if name in _SECRET_HEADERS}
        headers = tuple((name, None if name in secrets else value) for name, value in request.headers)

        def asked(question: Question) -> memoryview:
            return self.ask(question, secrets=secrets, request=request)

        question = Question(method="http_request", url=request.target, headers=headers)
        response = decode_http_response(asked(question))
        if response.upgrade:
            response = decode_http_response(asked(attrs.evolve(question, method="http_request_update")))
        parts: list[bytes | memoryview] = [response.body]
        size = len(response.body)
        following = response.streaming
        arg = None if following is None else following.arg
        while following is not None and arg is not None:
            if following.canister_id != self.canister_id:
                raise _streamed(request, "names a callback of another canister")
            body, arg = decode_streaming_chunk(asked(Question(method=following.method, arg=arg)))
            parts.append(body)
            size += len(body)
            if size > self.reply_bytes or len(parts) > _MAX_CALLBACKS:
                raise _streamed(request, "does not end")
        return HubReply(
            route=request.route,
            status=response.status,
            body=b"".join(parts),
            retry_after=response.header("retry-after"),
            location=response.header("location"),
        )


def _streamed(request: HubRequest, what: str) -> ExportError:
    message = f"the reply to {request.route} comes in pieces and {what}"
    return ExportError(message, kind="reply_too_large", hint="check the canister id", route=request.route)
