;; Stands in for the cycles minting canister, which `icp canister create` asks for subnets: answers with the bytes it was
;; installed with.
(module
  (import "ic0" "msg_arg_data_size" (func $arg_size (result i32)))
  (import "ic0" "msg_arg_data_copy" (func $arg_copy (param i32 i32 i32)))
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (import "ic0" "msg_reply" (func $reply))
  (memory 1)
  (global $size (mut i32) (i32.const 0))
  (func (export "canister_init")
    (global.set $size (call $arg_size))
    (call $arg_copy (i32.const 0) (i32.const 0) (global.get $size)))
  (func (export "canister_query get_default_subnets")
    (call $append (i32.const 0) (global.get $size))
    (call $reply))
)
