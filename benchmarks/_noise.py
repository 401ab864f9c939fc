"""A canister whose stable memory can be filled with noise, which no compression or sparse file makes smaller."""

from __future__ import annotations

from pathlib import Path

import wasmtime

from sandbox_bench import take_argument

__all__ = ["noise_wasm", "take_argument"]

_NOISE = Path(__file__).parents[1] / "tests" / "data" / "noise.wat"


def noise_wasm() -> bytes:
    """Return a canister whose method ``fill`` adds two MiB of noise to its stable memory."""
    return bytes(wasmtime.wat2wasm(_NOISE.read_text()))
