"""
The paths of ``read_state``: which exist, who may read them, and the state below them.

Source:
    IC interface specification, "Request: Read state"; internet-computer reference, A.7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from .. import principal
from .hash_tree import HashTree
from .ingress import IngressError

if TYPE_CHECKING:
    from ..messages import RequestStatus
    from ..replica.replica import Replica
    from .certification import Certifier

__all__ = ["StatePaths"]

_REQUEST_LEAVES: Final = (b"status", b"reply", b"reject_code", b"reject_message", b"error_code")
_CANISTER_LEAVES: Final = (
    b"module_hash",
    b"controllers",
    b"canister_creation_timestamp",
    b"last_install_timestamp",
)


class StatePaths:
    """
    The paths of one ``read_state``.

    Args:
        replica: Holds the state.
        certifier: Knows the subnet's part of the tree.
        sender: Who asks.
        targets: Canisters the sender's delegations reach, `None` for all.
        effective_id: Canister or subnet of the URL.
        of_subnet: Whether the request came through the subnet endpoint.
    """

    def __init__(  # noqa: PLR0913 - one request's circumstances
        self,
        *,
        replica: Replica,
        certifier: Certifier,
        sender: bytes,
        targets: frozenset[bytes] | None,
        effective_id: bytes,
        of_subnet: bool,
    ) -> None:
        self._replica = replica
        self._certifier = certifier
        self._sender = sender
        self._targets = targets
        self._effective_id = effective_id
        self._of_subnet = of_subnet
        self._request_id: bytes | None = None

    def check(self, paths: Iterable[tuple[bytes, ...]]) -> None:
        """
        Refuse paths that do not exist or that the sender may not read.

        Raises:
            IngressError: 400, 403 or 404.
        """
        for path in paths:
            match path:
                case (b"time",) | (b"subnet",) | (b"subnet", _):
                    pass
                case (b"api_boundary_nodes", *rest) if len(rest) <= 2:
                    pass
                case (b"subnet", _, b"public_key" | b"type" | b"canister_ranges" | b"node"):
                    pass
                case (b"subnet", _, b"node", _) | (b"subnet", _, b"node", _, b"public_key"):
                    pass
                case (b"subnet", _, b"metrics") | (b"canister_ranges", _) if self._of_subnet:
                    pass
                case (b"request_status", request_id, *rest) if not self._of_subnet and _is_leaf(rest):
                    self._check_request(request_id)
                case (b"canister", canister_id, leaf) if not self._of_subnet and leaf in _CANISTER_LEAVES:
                    self._check_canister(canister_id)
                case (b"canister", canister_id, b"metadata", name) if not self._of_subnet:
                    self._check_canister(canister_id)
                    self._check_section(canister_id, name)
                case _:
                    raise IngressError(404, "Invalid path requested.")

    def _check_request(self, request_id: bytes) -> None:
        if len(request_id) != 32:
            raise IngressError(400, "Invalid request id in paths. The request id must be 32 bytes long.")
        if self._request_id not in (None, request_id):
            raise IngressError(400, "More than one non-unique request ID exists in request_status paths.")
        self._request_id = request_id
        status = self._replica.request_status(request_id)
        if status is None:
            return
        if status.sender != self._sender:
            raise IngressError(403, "The user tries to access Request ID not signed by the caller.")
        if self._targets is not None and status.canister_id not in self._targets:
            raise IngressError(
                403,
                "The user tries to access request IDs for canisters not belonging to sender delegation targets.",
            )

    def _check_canister(self, canister_id: bytes) -> None:
        if canister_id != self._effective_id:
            raise IngressError(
                400,
                f"Effective principal id in URL {principal.to_text(self._effective_id)} does not match requested "
                f"principal id: {canister_id.hex()}.",
            )

    def _check_section(self, canister_id: bytes, name: bytes) -> None:
        try:
            section_name = name.decode()
        except UnicodeDecodeError as error:
            raise IngressError(400, f"Could not parse the custom section name: {error}.") from error
        canister = self._replica.canisters.get(canister_id)
        code = canister.code if canister else None
        section = code.module.custom_sections.get(section_name) if code else None
        if canister is None or section is None or section.public:
            return
        if self._sender not in canister.settings.controllers:
            raise IngressError(
                403,
                f"Custom section {section_name[:100]} can only be requested by the controllers of the canister.",
            )

    def subtrees(
        self,
        paths: Iterable[tuple[bytes, ...]],
        *,
        sharded: bool,
        visible: Callable[[bytes, RequestStatus | None], RequestStatus | None],
    ) -> dict[bytes, HashTree]:
        """
        Return the parts of the state tree that checked *paths* lie in, by first label.

        Args:
            paths: As given to `check`.
            sharded: Whether ranges are asked for in the sharded form (then the flat ones are pruned).
            visible: Maps a request's status to what may be seen of it now.
        """
        found: dict[bytes, HashTree] = {}
        for path in paths:
            label = path[0]
            if label in found or label == b"time":
                continue
            if label == b"subnet":
                found[label] = self._certifier.subnet_tree(with_ranges=not sharded)
            elif label == b"canister_ranges":
                found[label] = self._certifier.ranges_tree()
            elif label == b"api_boundary_nodes":
                found[label] = self._certifier.no_boundary_nodes()
            elif label == b"canister":
                found[label] = self._certifier.all_canisters(self._replica.canisters, self._effective_id)
            else:
                status = visible(path[1], self._replica.request_status(path[1]))
                found[label] = self._certifier.request_history(path[1], status)
        return found


def _is_leaf(rest: list[bytes]) -> bool:
    return not rest or (len(rest) == 1 and rest[0] in _REQUEST_LEAVES)
