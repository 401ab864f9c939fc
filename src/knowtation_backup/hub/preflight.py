"""What a look at a hub before an export found."""

from __future__ import annotations

import attrs

__all__ = ["PreflightReport"]


@attrs.frozen(kw_only=True)
class PreflightReport:
    """
    Whether an export could begin.

    ``status`` is ``ok``, ``unhealthy``, or the kind of the error: ``unreachable``, ``tls``, ``gateway_auth``,
    ``operator_key``, ``operator_key_missing``, ``not_configured``, ``not_found``, ``reply_not_json`` ...
    """

    address: str
    status: str
    message: str
    hint: str = ""

    @property
    def ok(self) -> bool:
        """Whether an export could begin now."""
        return self.status == "ok"

    @property
    def exit_code(self) -> int:
        """0 when an export could begin, otherwise 1."""
        return 0 if self.ok else 1

    def __str__(self) -> str:
        """Return one line for people."""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.address}: {self.status}: {self.message}{hint}"
