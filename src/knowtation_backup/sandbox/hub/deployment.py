"""
Deploys the hub and its attestation ledger on a sandbox network, and calls what only controllers may call.

The Wasm is compiled from ``motoko`` beside this module (``tools/build_wasm.mjs``); its HTTP interface is that of a
Knowtation hub.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

import attrs

from ..candid import BLOB, BOOL, NAT, NAT16, PRINCIPAL, TEXT, CandidType, Opt, Record, Vec, decode, encode
from ..principal import to_text

if TYPE_CHECKING:
    from ..network import SandboxNetwork
    from ..protocol.server import SandboxServer

__all__ = ["HTTP_REQUEST", "HTTP_RESPONSE", "PROPOSAL_KEYS", "SandboxHub", "canister_wasm"]


def _record(**fields: CandidType) -> Record:
    return Record(fields)


_HEADERS: Final = Vec(Record({0: TEXT, 1: TEXT}))
HTTP_REQUEST: Final = _record(method=TEXT, url=TEXT, headers=_HEADERS, body=BLOB)
"""What `http_request` and `http_request_update` of both canisters take."""
HTTP_RESPONSE: Final = _record(status_code=NAT16, headers=_HEADERS, body=BLOB, upgrade=Opt(BOOL))

_NOTE: Final = _record(path=TEXT, frontmatter=TEXT, body=TEXT)
PROPOSAL_KEYS: Final = (
    "proposal_id",
    "path",
    "status",
    "intent",
    "base_state_id",
    "external_ref",
    "vault_id",
    "created_at",
    "updated_at",
    "evaluation_status",
    "evaluation_grade",
    "evaluated_by",
    "evaluated_at",
    "review_queue",
    "review_severity",
    "auto_flag_reasons_json",
    "body",
    "frontmatter",
    "evaluation_checklist",
    "evaluation_comment",
    "evaluation_waiver",
    "review_hints",
    "review_hints_at",
    "review_hints_model",
    "assistant_notes",
    "assistant_model",
    "assistant_at",
    "suggested_labels",
    "assistant_suggested_frontmatter",
)
"""Keys of a full proposal in the order of the hub's replies; the first 16 are those of a list stub."""
_PROPOSAL: Final = Record({key: Opt(TEXT) if key == "evaluation_waiver" else TEXT for key in PROPOSAL_KEYS})
_VAULT: Final = _record(user_id=TEXT, vault_id=TEXT, create_vault=BOOL, notes=Vec(_NOTE), proposals=Vec(_PROPOSAL))
_ENTRY_KEYS: Final = ("id", "action", "path", "timestamp", "content_hash", "sig")
_ENTRY: Final = Record(dict.fromkeys(_ENTRY_KEYS, TEXT))
_RECORD: Final = _record(**dict.fromkeys((*_ENTRY_KEYS, "stored_at"), TEXT), seq=NAT)


def canister_wasm(name: str) -> bytes:
    """Return the committed Wasm of ``hub`` or ``attestation``."""
    return (resources.files(__package__) / "wasm" / f"{name}.wasm").read_bytes()


@attrs.frozen(kw_only=True)
class SandboxHub:
    """A hub and its attestation ledger that run on a sandbox network; make one with `deploy`."""

    network: SandboxNetwork = attrs.field(repr=False)
    hub_id: bytes
    attestation_id: bytes
    controller: bytes

    @classmethod
    def deploy(
        cls,
        network: SandboxNetwork,
        *,
        operator_key: str = "",
        gateway_secret: str = "",
        controller: bytes | None = None,
    ) -> SandboxHub:
        """
        Create and install both canisters and set the hub's secrets.

        Args:
            network: Where to.
            operator_key: Secret of the operator index; empty leaves it unset, then the index answers 503.
            gateway_secret: Secret every request must carry; empty means none is needed.
            controller: Principal that may change settings, seed, and write attestations; `None` for the network's
                operator.

        Raises:
            Rejected: The network refused a step.
        """
        controller = network.operator if controller is None else controller
        hub_id, attestation_id = (
            network.create_canister(canister_wasm(name), controllers=(controller,)) for name in ("hub", "attestation")
        )
        hub = cls(network=network, hub_id=hub_id, attestation_id=attestation_id, controller=controller)
        if operator_key:
            hub.set_operator_key(operator_key)
        if gateway_secret:
            hub.set_gateway_secret(gateway_secret)
        return hub

    def base_url(self, server: SandboxServer | None = None) -> str:
        """Return the hub's base URL: at a port of *server*, or the one for the network's in-process transport."""
        return _base_url(self.hub_id, server)

    def attestation_url(self, server: SandboxServer | None = None) -> str:
        """Return the ledger's base URL, like `base_url`."""
        return _base_url(self.attestation_id, server)

    def set_operator_key(self, secret: str) -> None:
        """Set the secret of the operator index; empty disables the index."""
        self._set("admin_set_operator_export_secret", secret)

    def set_gateway_secret(self, secret: str) -> None:
        """Set the secret every request must carry; empty disables the check."""
        self._set("admin_set_gateway_auth_secret", secret)

    def set_cors_origin(self, origin: str) -> None:
        """Set the origin named in CORS headers; empty sends none."""
        self._set("admin_set_cors_origin", origin)

    def seed_vaults(self, vaults: Sequence[dict[str, Any]]) -> None:
        """
        Plant vaults unchecked; one call, so keep it below the 2 MiB of an ingress message.

        Args:
            vaults: Dicts with ``user_id``, ``vault_id``, ``create_vault`` (bool: it exists even without notes),
                ``notes`` (``path``, ``frontmatter``, ``body``) and ``proposals`` (`PROPOSAL_KEYS`, all text, the
                waiver optional).

        Raises:
            Rejected: The network refused the message.
        """
        self._update(self.hub_id, "admin_seed_vaults", [Vec(_VAULT)], [vaults])

    def seed_copies(self, user_id: str, vault_id: str, to_user_ids: Sequence[str]) -> None:
        """Give the notes of a vault to other tenants too; the hub keeps the texts once."""
        self._update(self.hub_id, "admin_seed_copies", [TEXT, TEXT, Vec(TEXT)], [user_id, vault_id, to_user_ids])

    def store_attestation(self, **entry: str) -> dict[str, Any]:
        """Append ``id, action, path, timestamp, content_hash, sig`` to the ledger and return what it stored."""
        (record,) = decode(self._update(self.attestation_id, "storeAttestation", [_ENTRY], [entry]), [_RECORD])
        return dict(record)

    def authorize_attestations(self, writer: bytes) -> None:
        """Let the principal *writer* write attestations."""
        self._update(self.attestation_id, "authorize", [PRINCIPAL], [writer])

    def _set(self, method: str, value: str) -> None:
        self._update(self.hub_id, method, [TEXT], [value])

    def _update(self, canister_id: bytes, method: str, types: Sequence[CandidType], values: Sequence[Any]) -> bytes:
        return self.network.update(canister_id, method, encode(types, values), self.controller)


def _base_url(canister_id: bytes, server: SandboxServer | None) -> str:
    return f"http://{to_text(canister_id)}.raw.localhost" if server is None else server.gateway_url(canister_id)
