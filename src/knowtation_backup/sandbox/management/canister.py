"""
The management canister ``aaaaa-aa`` of the sandbox: decodes arguments, checks who may call what, dispatches, answers.

Refusals found by the ingress filter are not certified and nothing has happened; those found while executing are
certified. Both name the same causes with different texts, as the network does.

Source:
    IC interface specification, "The IC management canister"; internet-computer reference, A.11, A.12, C and D.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .. import accounting, principal
from ..candid import CandidError, decode, encode
from ..messages import Call, Rejected, Replied
from ..replica.replica import Misaddressed
from ..replica.scheduler import not_found
from ..state import Canister
from .context import Handler, ManagementContext, ManagementOptions
from .install import Installer
from .lifecycle import Lifecycle
from .reports import QueryHandler, Reports
from .snapshot_data import SnapshotData
from .snapshots import Snapshots, SnapshotStore
from .types import METHODS

if TYPE_CHECKING:
    from ..replica.replica import ManagementRequest, Replica

__all__ = ["ManagementCanister"]

_CANISTERS_ONLY: Final = frozenset(
    {
        "canister_info",
        "canister_metadata",
        "create_canister",
        "deposit_cycles",
        "http_request",
        "node_metrics_history",
        "raw_rand",
        "subnet_info",
        "ecdsa_public_key",
        "schnorr_public_key",
        "sign_with_ecdsa",
        "sign_with_schnorr",
        "vetkd_derive_key",
        "vetkd_public_key",
        "bitcoin_get_balance",
        "bitcoin_get_block_headers",
        "bitcoin_get_current_fee_percentiles",
        "bitcoin_get_utxos",
        "bitcoin_send_transaction",
    }
)
_NEEDS_KEY: Final = frozenset(
    {
        "ecdsa_public_key",
        "schnorr_public_key",
        "sign_with_ecdsa",
        "sign_with_schnorr",
        "vetkd_derive_key",
        "vetkd_public_key",
    }
)
_QUERIES_ONLY: Final = frozenset({"fetch_canister_logs", "list_canisters"})
_ANYBODY: Final = frozenset({"provisional_create_canister_with_cycles", "provisional_top_up_canister"})
_SNAPSHOT_READS: Final = frozenset(
    {"list_canister_snapshots", "read_canister_snapshot_data", "read_canister_snapshot_metadata"}
)
_CREATIONS: Final = frozenset({"create_canister", "provisional_create_canister_with_cycles"})
_MAX_FREE_SETTINGS_BYTES: Final = 267
"""`update_settings` up to this argument size costs no induction, so that frozen canisters can be helped."""
_FILTER_REFUSAL: Final = "Failed to decode payload for ic00 method: {method}"
_EXECUTION_REFUSAL: Final = "Error decoding candid: {error}"


def _target(method: str, argument: dict[str, Any]) -> bytes | None:
    """Return the canister that the URL of a call must name, `None` when any will do (reference, A.12)."""
    if method in _CREATIONS:
        return None
    target: bytes | None = argument.get("target_canister", argument.get("canister_id"))
    return target


def _argument(method: str, arg: bytes, refusal: str) -> dict[str, Any]:
    method_type = METHODS.get(method)
    if method_type is None:
        raise Rejected("IC0407", f"Management canister has no method '{method}'")
    if method_type.argument is None:
        return {}
    try:
        argument: dict[str, Any] = decode(arg, [method_type.argument])[0]
    except CandidError as error:
        raise Rejected("IC0408", refusal.format(method=method, error=error)) from error
    return argument


_NOTHING: Final[tuple[str, bytes, dict[str, Any]]] = ("", b"", {})


class ManagementCanister:
    """
    The management canister of one replica; every method runs under the replica's execution lock.

    Args:
        replica: Its canisters, clock and engine are used.
        options: Switches; the defaults are a network without delays and limits on writing.
    """

    def __init__(self, replica: Replica, *, options: ManagementOptions | None = None) -> None:
        self._replica = replica
        self._context = ManagementContext(replica, options or ManagementOptions())
        self._lifecycle = Lifecycle(self._context)
        installer = Installer(self._context)
        store = SnapshotStore(self._context)
        reports = Reports(self._context)
        self._handlers: dict[str, Handler] = {
            **self._lifecycle.handlers(),
            **installer.handlers(),
            **reports.handlers(),
            **Snapshots(self._context, store, self._lifecycle, installer).handlers(),
            **SnapshotData(self._context, store).handlers(),
        }
        self._queries: dict[str, QueryHandler] = reports.queries()
        self._accepted = _NOTHING  # what the filter decoded last, so that a large argument is decoded once

    @property
    def options(self) -> ManagementOptions:
        """The switches; assign to change them."""
        return self._context.options

    @options.setter
    def options(self, options: ManagementOptions) -> None:
        self._context.options = options

    @property
    def next_canister(self) -> int:
        """Number of the next created canister; storage keeps it."""
        return self._lifecycle.next_canister

    @next_canister.setter
    def next_canister(self, number: int) -> None:
        self._lifecycle.next_canister = number

    def check_ingress(self, call: Call) -> None:
        """
        Decide whether a user's call is accepted, and charge its induction to the canister it is about.

        Raises:
            Misaddressed: The URL names another canister than the argument.
            Rejected: IC0301, IC0406, IC0407, IC0408, IC0512 or IC0207; nothing was charged.
        """
        if call.method in _CANISTERS_ONLY:
            raise Rejected("IC0406", f"Only canisters can call ic00 method {call.method}")
        if call.method in _QUERIES_ONLY:
            raise Rejected("IC0406", f"{call.method} API is not accessible via ingress in replicated mode")
        argument = _argument(call.method, call.arg, _FILTER_REFUSAL)
        self._accepted = call.method, call.arg, argument
        target = _target(call.method, argument)
        if target is None:
            return
        self._require_addressed(call, target)
        canister = self._replica.canisters.get(target)
        if canister is None:
            raise not_found(target)
        if not self._admits(canister, call.method, call.sender):
            raise Rejected(
                "IC0512",
                f"Only controllers of canister {principal.to_text(target)} can call ic00 method {call.method}",
            )
        free = call.method == "provisional_top_up_canister" or (
            call.method == "update_settings" and len(call.arg) <= _MAX_FREE_SETTINGS_BYTES
        )
        if not free:
            accounting.charge_ingress(canister, call.size_bytes)

    def execute(self, request: ManagementRequest) -> None:
        """
        Execute a call and answer it through ``request.respond``, now or (a deferred stop) later.

        Raises:
            Rejected: The call is refused; the same as answering so and refunding all cycles.
        """
        method = request.method
        if method in _CANISTERS_ONLY and method not in self._handlers:
            raise _unavailable(method)
        if method in _QUERIES_ONLY:
            raise Rejected("IC0406", f"{method} API is only accessible in non-replicated mode")
        (decoded_method, arg, argument), self._accepted = self._accepted, _NOTHING
        if method != decoded_method or arg is not request.arg:
            argument = _argument(method, request.arg, _EXECUTION_REFUSAL)
        _require_sender_version(request, argument)
        reply = self._handlers[method](request, argument)
        if reply is not None:
            data = encode(METHODS[method].results, reply.values)
            request.respond(Replied(data), request.cycles - reply.accepted)

    def query(self, call: Call) -> bytes:
        """
        Answer a query.

        Raises:
            Misaddressed: The URL names another canister than the argument.
            Rejected: IC0536 for methods that are not queries, all snapshot methods among them; otherwise as the method.
        """
        handler = self._queries.get(call.method)
        if handler is None:
            raise Rejected("IC0536", f"Query method {call.method} not found.")
        argument = _argument(call.method, call.arg, _EXECUTION_REFUSAL)
        if "canister_id" in argument:
            self._require_addressed(call, argument["canister_id"])
        return encode(METHODS[call.method].results, handler(call.sender, argument))

    def out_of_cycles(self, canister: Canister) -> None:
        """Uninstall a canister that cannot pay its idle cost; its snapshots and allocations go too."""
        self._lifecycle.uninstall_by_system(canister)

    def close(self) -> None:
        """Free the memory of all snapshots."""
        for canister in self._replica.canisters.values():
            self._lifecycle.drop_snapshots(canister)

    @staticmethod
    def _require_addressed(call: Call, target: bytes) -> None:
        # Some clients put aaaaa-aa into the URL; the argument then decides alone.
        if call.effective_canister_id not in (b"", target):
            raise Misaddressed(
                "IC0408",
                f"Specified CanisterId {principal.to_text(target)} does not match effective canister id in URL "
                f"{principal.to_text(call.effective_canister_id)}",
            )

    def _admits(self, canister: Canister, method: str, sender: bytes) -> bool:
        if method in _ANYBODY or sender in canister.settings.controllers:
            return True
        if method in _SNAPSHOT_READS:
            return self._context.may_view(canister, canister.settings.snapshot_visibility, sender)
        if method == "canister_status":
            return self._context.may_view(canister, canister.settings.status_visibility, sender)
        return False


def _require_sender_version(request: ManagementRequest, argument: dict[str, Any]) -> None:
    given, actual = argument.get("sender_canister_version"), request.sender_canister_version
    if given is not None and actual is not None and given != actual:
        raise Rejected(
            "IC0504",
            f"Management canister call payload includes sender canister version {given} "
            f"that does not match the actual sender canister version {actual}.",
        )


def _unavailable(method: str) -> Rejected:
    if method in _NEEDS_KEY:
        return Rejected("IC0406", f"Requested unknown threshold key: {method} has no keys on this subnet")
    return Rejected("IC0406", f"{method}: This API is not enabled on this subnet")
