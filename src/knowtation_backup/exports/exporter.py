"""
Exporting a hub: every tenant's notes and proposals as one stream of bytes, while the hub keeps serving.

`OperatorExporter` reads all tenants (format version 4, or records), `VaultExporter` one vault in the legacy format 2.
Both are `BackupSource`; nothing is requested before the capture's chunks are (see `capture` for what happens then).
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable

import attrs

from ..contracts import Observer, ignore_events
from ..errors import ConfigurationError
from ..hub.client import HubClient
from ..ic.agent import Agent
from .capture import ExportCapture, vault_tag
from .certified import ExportMode, HubReads
from .forms import Form, FullForm, RecordsForm, SingleVaultForm
from .options import ExportOptions

__all__ = ["OperatorExporter", "VaultExporter", "vault_tag"]


class OperatorExporter:
    """
    Exports every tenant of a hub.

    In mode ``query`` each reply comes from one node of the network, through an HTTP gateway. In mode ``certified`` it
    is the result of a replicated call, signed by the hub's subnet and verified here; the side file
    ``certified-replies.bin`` keeps the replies and signatures for `verify_export_evidence`. Neither mode ever falls
    back to the other.

    Args:
        hub: A client with the operator key.
        options: How to run.
        mode: ``query`` or ``certified``.
        agent: Makes the calls of mode ``certified``.
        canister_id: Of the hub, when its address does not hold it; for mode ``certified``.
        monotonic: Seconds, for progress.

    Raises:
        ConfigurationError: The mode lacks what it needs.
    """

    def __init__(  # noqa: PLR0913 - one argument per independent part
        self,
        hub: HubClient,
        options: ExportOptions | None = None,
        *,
        mode: ExportMode = "query",
        agent: Agent | None = None,
        canister_id: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hub = hub
        self._options = options or ExportOptions()
        self._reads = HubReads.for_mode(mode, hub, self._options, agent=agent, canister_id=canister_id)
        self._monotonic = monotonic

    def capture(self, *, taken_at: dt.datetime, observer: Observer = ignore_events) -> ExportCapture:
        """Begin a capture; no request is sent before its chunks are read."""
        form: Form = FullForm() if self._options.payload == "full" else RecordsForm()
        options, reads, carrier = self._reads.begin(self._hub, self._options, form, taken_at, None)
        return ExportCapture(
            hub=self._hub,
            options=options,
            form=form,
            taken_at=taken_at,
            observer=observer,
            monotonic=self._monotonic,
            reads=reads,
            carrier=carrier,
        )


class VaultExporter:
    """
    Exports one vault of one tenant in format version 2, the legacy single-partition backup (HUB-10).

    Of the options, those about tenants and vaults have no effect, and a vault that cannot be read always fails the run.

    Args:
        hub: A client; no operator key is needed.
        user_id: The tenant.
        vault_id: The vault.
        options: How to run.
        mode: As for `OperatorExporter`, and so are *agent* and *canister_id*.
        agent: Makes the calls of mode ``certified``.
        canister_id: Of the hub, when its address does not hold it.
        monotonic: Seconds, for progress.
    """

    def __init__(  # noqa: PLR0913 - one argument per independent part
        self,
        hub: HubClient,
        *,
        user_id: str,
        vault_id: str = "default",
        options: ExportOptions | None = None,
        mode: ExportMode = "query",
        agent: Agent | None = None,
        canister_id: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if not user_id.strip():
            message = "a single vault export needs the tenant's id"
            raise ConfigurationError(message, kind="user_id_missing", hint="see KNOWTATION_CANISTER_BACKUP_USER_ID")
        self._hub = hub
        self._options = attrs.evolve(
            options or ExportOptions(), on_error="fail", payload="full", extra_users=(), previous=None
        )
        self._only = (user_id, vault_id.strip() or "default")
        self._reads = HubReads.for_mode(mode, hub, self._options, agent=agent, canister_id=canister_id)
        self._monotonic = monotonic

    def capture(self, *, taken_at: dt.datetime, observer: Observer = ignore_events) -> ExportCapture:
        """Begin a capture; no request is sent before its chunks are read."""
        form = SingleVaultForm(self._only[1])
        options, reads, carrier = self._reads.begin(self._hub, self._options, form, taken_at, self._only)
        return ExportCapture(
            hub=self._hub,
            options=options,
            form=form,
            taken_at=taken_at,
            observer=observer,
            monotonic=self._monotonic,
            only=self._only,
            reads=reads,
            carrier=carrier,
        )
