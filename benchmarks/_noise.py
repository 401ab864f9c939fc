"""A canister whose stable memory can be filled with noise, which no compression or sparse file makes smaller."""

from __future__ import annotations

import wasmtime

from sandbox_bench import take_argument

__all__ = ["noise_wasm", "take_argument"]

_NOISE = """
(module
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "msg_reply_data_append" (func $append (param i64 i64)))
  (import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
  (import "ic0" "stable64_write" (func $write (param i64 i64 i64)))
  (memory (export "mem") i64 34)
  (data (i64.const 8) "DIDL\\00\\00")
  (func (export "canister_update fill") (local $i i64) (local $x i64) (local $page i64)
    (local.set $page (call $grow (i64.const 32)))
    (local.set $x (i64.add (i64.mul (local.get $page) (i64.const 0x9E3779B97F4A7C15)) (i64.const 88172645463325252)))
    (loop $next
      (local.set $x (i64.xor (local.get $x) (i64.shl (local.get $x) (i64.const 13))))
      (local.set $x (i64.xor (local.get $x) (i64.shr_u (local.get $x) (i64.const 7))))
      (local.set $x (i64.xor (local.get $x) (i64.shl (local.get $x) (i64.const 17))))
      (i64.store (i64.add (i64.const 65536) (local.get $i)) (local.get $x))
      (local.set $i (i64.add (local.get $i) (i64.const 8)))
      (br_if $next (i64.lt_u (local.get $i) (i64.const 2097152))))
    (call $write (i64.mul (local.get $page) (i64.const 65536)) (i64.const 65536) (i64.const 2097152))
    (call $append (i64.const 8) (i64.const 6)) (call $reply)))
"""


def noise_wasm() -> bytes:
    """Return a canister whose method ``fill`` adds two MiB of noise to its stable memory."""
    return bytes(wasmtime.wat2wasm(_NOISE))
