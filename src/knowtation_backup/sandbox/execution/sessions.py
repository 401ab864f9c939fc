"""Running instances of canisters: the lasting one, and those of composite queries."""

from __future__ import annotations

import attrs

from ..state import Canister, CodeState
from .effects import from_canister, read_outcome
from .instance import Instance
from .message import InstructionLimits, Message, Outcome
from .stable import StableMemory

__all__ = ["LiveCanister", "QuerySession"]


@attrs.frozen
class LiveCanister:
    """A running instance, the committed state it was made from, and that state's stable memory."""

    instance: Instance
    code: CodeState
    stable: StableMemory

    def commit(self) -> int:
        """Make the state of now the committed one, or raise `OSError`; returns bytes written."""
        return self.instance.commit(self.code.global_values) + self.stable.commit()

    def rollback(self) -> bool:
        """Return to the committed state; `False`: close the instance."""
        self.stable.rollback()
        return self.instance.rollback()


class QuerySession:
    """
    The messages of one composite query on one canister: its memory changes last until `close`.

    The canister's committed state never changes. A message that fails is undone.
    """

    def __init__(self, canister: Canister, live: LiveCanister, limits: InstructionLimits) -> None:
        self._canister = canister
        self._live = live
        self._limits = limits
        self._failed = False

    def execute(self, message: Message) -> Outcome:
        """Run one message."""
        instance = self._live.instance
        saved, pages = instance.globals_now(), instance.changed_pages()
        outcome = Outcome()
        failure, outcome.instructions = instance.run(
            message, stable=self._live.stable, fuel_limit=self._limits.of(message.mode)
        )
        if failure is None:
            self._live.stable.commit()
            read_outcome(instance.api, outcome)
            return outcome
        outcome.failure = from_canister(self._canister, failure)
        self._live.stable.rollback()
        self._failed = not instance.restore(saved, pages)
        return outcome

    @property
    def usable(self) -> bool:
        """False after a failed message that had grown the memory: no further message can run."""
        return not self._failed

    def close(self) -> None:
        """Free the instance."""
        self._live.instance.close()
        self._live.stable.close()
