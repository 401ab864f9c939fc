;; Stands in for the cycles ledger, from which `icp canister create` buys canisters: creates one for the caller, with
;; two trillion cycles of its own, whatever amount and settings are asked for.
(module
  (import "ic0" "msg_caller_size" (func $caller_size (result i32)))
  (import "ic0" "msg_caller_copy" (func $caller_copy (param i32 i32 i32)))
  (import "ic0" "msg_arg_data_size" (func $arg_size (result i32)))
  (import "ic0" "msg_arg_data_copy" (func $arg_copy (param i32 i32 i32)))
  (import "ic0" "call_new" (func $call_new (param i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "ic0" "call_data_append" (func $call_data_append (param i32 i32)))
  (import "ic0" "call_cycles_add128" (func $call_cycles_add (param i64 i64)))
  (import "ic0" "call_perform" (func $call_perform (result i32)))
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "msg_reject" (func $reject (param i32 i32)))

  (memory 1)
  (table funcref (elem $created $refused))

  (data (i32.const 0) "create_canister")
  (data (i32.const 32) "not created")
  ;; (record { settings = opt record { controllers = opt vec { <length and bytes of a principal> } } })
  (data (i32.const 64) "DIDL\05l\01\e3\f9\f5\d9\08\01n\02l\01\d7\e0\9b\90\02\03n\04mh\01\00\01\01\01\01")
  ;; (variant { Ok = record { block_id = 7 : nat; canister_id = <ten bytes of a principal> } })
  (data (i32.const 192) "DIDL\02k\01\bc\8a\01\01l\02\cd\95\a2\cd\01\7d\b3\c4\b1\f2\04h\01\00\00\07\01\0a")

  (func (export "canister_update create_canister")
    (i32.store8 (i32.const 97) (call $caller_size))
    (call $caller_copy (i32.add (i32.const 97) (i32.const 1)) (i32.const 0) (call $caller_size))
    (call $call_new
      (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 15)
      (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0))
    (call $call_data_append (i32.const 64)
      (i32.add (i32.const 34) (call $caller_size)))
    (call $call_cycles_add (i64.const 0) (i64.const 2000000000000))
    (if (call $call_perform) (then (call $refused (i32.const 0)))))

  ;; the new id is at the end of both answers
  (func $created (param i32)
    (call $arg_copy (i32.const 223) (i32.sub (call $arg_size) (i32.const 10)) (i32.const 10))
    (call $append (i32.const 192) (i32.const 41))
    (call $reply))
  (func $refused (param i32)
    (call $reject (i32.const 32) (i32.const 11)))
)
