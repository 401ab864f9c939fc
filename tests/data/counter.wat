;; A canister written by hand: counts, echoes, certifies, traps, and serves a little HTTP.
(module
  (import "ic0" "msg_reply" (func $msg_reply))
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (import "ic0" "msg_arg_data_size" (func $arg_size (result i32)))
  (import "ic0" "msg_arg_data_copy" (func $arg_copy (param i32 i32 i32)))
  (import "ic0" "data_certificate_size" (func $certificate_size (result i32)))
  (import "ic0" "data_certificate_copy" (func $certificate_copy (param i32 i32 i32)))
  (import "ic0" "certified_data_set" (func $certify (param i32 i32)))
  (import "ic0" "global_timer_set" (func $timer_set (param i64) (result i64)))
  (import "ic0" "time" (func $time (result i64)))
  (import "ic0" "trap" (func $trap (param i32 i32)))
  (import "ic0" "msg_reject" (func $reject (param i32 i32)))

  (memory $memory 40)
  (global $count (mut i64) (i64.const 0))
  (@custom "icp:public candid:service"
    "service : { inc : () -> (nat64); get : () -> (nat64) query; echo : (blob) -> (blob); echo_query : (blob) -> (blob) query; boom : () -> (); refuse : () -> () }")
  (@custom "icp:private notes" "for controllers")

  ;; 0: DIDL, no types, one argument of type nat64; the value follows at 8
  (data (i32.const 0) "DIDL\00\01\78\00")
  (data (i32.const 32) "on purpose")
  ;; () as Candid
  (data (i32.const 48) "DIDL\00\00")

  (func $reply_count
    (call $append (i32.const 0) (i32.const 7))
    (i64.store (i32.const 8) (global.get $count))
    (call $append (i32.const 8) (i32.const 8))
    (call $msg_reply))

  (func $take_arg (result i32)
    (call $arg_copy (i32.const 65536) (i32.const 0) (call $arg_size))
    (call $arg_size))

  (func (export "canister_update inc")
    (global.set $count (i64.add (global.get $count) (i64.const 1)))
    (call $reply_count))
  (func (export "canister_query get") (call $reply_count))
  (func $echo
    (call $append (i32.const 65536) (call $take_arg))
    (call $msg_reply))
  (func (export "canister_update echo") (call $echo))
  (func (export "canister_query echo_query") (call $echo))
  (func (export "canister_update boom")
    (global.set $count (i64.const -1))
    (call $trap (i32.const 32) (i32.const 10)))
  (func (export "canister_update refuse") (call $reject (i32.const 32) (i32.const 10)))

  ;; takes raw bytes and certifies them; the query returns the certificate raw
  (func (export "canister_update certify")
    (call $certify (i32.const 65536) (call $take_arg))
    (call $append (i32.const 48) (i32.const 6))
    (call $msg_reply))
  (func (export "canister_query certificate")
    (call $certificate_copy (i32.const 65536) (i32.const 0) (call $certificate_size))
    (call $append (i32.const 65536) (call $certificate_size))
    (call $msg_reply))

  ;; a timer that adds 1000, one second from now
  (func (export "canister_update later")
    (drop (call $timer_set (i64.add (call $time) (i64.const 1000000000))))
    (call $append (i32.const 48) (i32.const 6))
    (call $msg_reply))
  (func (export "canister_global_timer")
    (global.set $count (i64.add (global.get $count) (i64.const 1000))))

  ;; (record { status_code = 200 : nat16; headers = vec {}; body = blob "counter" }), fields in order of their numbers
  (data (i32.const 128)
    "DIDL\04l\03\a2\f5\ed\88\04\01\c6\a4\a1\98\06\02\9a\a1\b2\f9\0czm\7bm\03l\02\00q\01q"
    "\01\00\07counter\00\c8\00")
  (func (export "canister_query http_request")
    (call $append (i32.const 128) (i32.const 48))
    (call $msg_reply))
)
