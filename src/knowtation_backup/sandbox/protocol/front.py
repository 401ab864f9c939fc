"""The door every request goes through: decides on faults, keeps the record, and hands over to interface or gateway."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ..faults import Decision, FaultPlan
from .exchange import HttpReply, HttpRequest

if TYPE_CHECKING:
    from ..request_log import RequestLog
    from .gateway import Gateway
    from .http_api import HttpApi

__all__ = ["FrontDoor"]

_INTERFACE: Final = re.compile(r"/api/v[234]/.*")


class FrontDoor:
    """
    What a transport talks to.

    A transport calls `admit`, waits as long as the decision says (without holding anything), then `execute`, and at
    last `leave`, whatever happened. Resets and truncation are the transport's part.
    """

    def __init__(self, *, api: HttpApi, gateway: Gateway, faults: FaultPlan, requests: RequestLog) -> None:
        self._api = api
        self._gateway = gateway
        self._faults = faults
        self._requests = requests

    def admit(self, request: HttpRequest) -> Decision:
        """Decide what happens to *request* and record it."""
        decision = self._faults.decide(request)
        self._requests.arrived(request, decision.faults)
        return decision

    def execute(self, request: HttpRequest, decision: Decision, canister_id: bytes | None = None) -> HttpReply:
        """
        Answer *request* as decided.

        Args:
            request: As it arrived.
            decision: From `admit`.
            canister_id: The canister a dedicated gateway port belongs to.
        """
        if decision.reply is not None:
            return decision.reply
        if _INTERFACE.fullmatch(request.path):
            reply = self._api.handle(request, decision.directive)
        else:
            reply = self._gateway.handle(request, canister_id)
        return decision.spoil(reply)

    def leave(self) -> None:
        """Note that a request admitted before is over."""
        self._requests.left()
