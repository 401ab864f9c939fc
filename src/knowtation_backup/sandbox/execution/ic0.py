"""How a function of the System API is declared."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import attrs

from ..messages import Rejected
from .message import Mode
from .wasm_binary import FunctionType

__all__ = ["Ic0Function", "Ic0Table", "contract_violation", "trapped"]


@functools.lru_cache(maxsize=256)
def _concrete(parameters: tuple[str, ...], results: tuple[str, ...], pointer: str) -> FunctionType:
    return FunctionType(
        tuple(pointer if kind == "I" else kind for kind in parameters),
        tuple(pointer if kind == "I" else kind for kind in results),
    )


@attrs.frozen
class Ic0Function:
    """Name, type (``I`` is the pointer width) and modes of one function; ``function`` takes the `SystemApi` first."""

    name: str
    parameters: tuple[str, ...]
    results: tuple[str, ...]
    modes: frozenset[Mode]
    function: Callable[..., int | None]
    memory32_only: bool = False

    def type(self, *, memory64: bool) -> FunctionType:
        """Return the concrete type for a pointer width."""
        return _concrete(self.parameters, self.results, "i64" if memory64 else "i32")


class Ic0Table(list[Ic0Function]):
    """Collects declarations: ``@table("I I -> i32", "U RQ")`` above a function named like the import."""

    def __call__(
        self, signature: str, modes: str, *, memory32_only: bool = False
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """
        Declare a function.

        Args:
            signature: Types separated by blanks, ``->``, result type or nothing.
            modes: Abbreviations of `Mode`; ``*`` is all except start, ``*s`` all.
            memory32_only: Not offered to modules with 64-bit memory.
        """
        parameters, _, results = signature.partition("->")
        if modes in {"*", "*s"}:
            allowed = frozenset(Mode) if modes == "*s" else frozenset(Mode) - {Mode.START}
        else:
            allowed = frozenset(Mode(mode) for mode in modes.split())

        def declare(function: Callable[..., Any]) -> Callable[..., Any]:
            name = function.__name__
            types = (tuple(parameters.split()), tuple(results.split()))
            self.append(Ic0Function(name, *types, allowed, function, memory32_only))
            return function

        return declare


def contract_violation(text: str) -> Rejected:
    """Return the failure of a canister that used the System API wrongly (IC0504)."""
    return Rejected("IC0504", f"Canister violated contract: {text}")


def trapped(text: str) -> Rejected:
    """Return the failure of a canister that Wasm stopped (IC0502)."""
    return Rejected("IC0502", f"Canister trapped: {text}")
