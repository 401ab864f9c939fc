// Runs one scenario of the JS agent against the network described by the environment, and prints the outcome as JSON.
"use strict";
const { createRequire } = require("node:module");
const fs = require("node:fs");
const load = createRequire(process.env.PEER_MODULES + "/anchor.js");
const { HttpAgent, Actor, CanisterStatus } = load("@icp-sdk/core/agent");
const { Ed25519KeyIdentity } = load("@icp-sdk/core/identity");
const { Secp256k1KeyIdentity } = load("@icp-sdk/core/identity/secp256k1");
const { IDL } = load("@icp-sdk/core/candid");
const { Principal } = load("@icp-sdk/core/principal");

const interfaceOfCounter = ({ IDL }) =>
  IDL.Service({
    inc: IDL.Func([], [IDL.Nat64], []),
    get: IDL.Func([], [IDL.Nat64], ["query"]),
    echo: IDL.Func([IDL.Vec(IDL.Nat8)], [IDL.Vec(IDL.Nat8)], []),
    echo_query: IDL.Func([IDL.Vec(IDL.Nat8)], [IDL.Vec(IDL.Nat8)], ["query"]),
    boom: IDL.Func([], [], []),
  });

// The part of the management canister that the scenario uses, written from its public interface.
const interfaceOfManagement = ({ IDL }) => {
  const canister = { canister_id: IDL.Principal };
  const snapshot = { snapshot_id: IDL.Vec(IDL.Nat8) };
  const taken = IDL.Record({ id: IDL.Vec(IDL.Nat8), taken_at_timestamp: IDL.Nat64, total_size: IDL.Nat64 });
  return IDL.Service({
    provisional_create_canister_with_cycles: IDL.Func(
      [IDL.Record({ amount: IDL.Opt(IDL.Nat) })], [IDL.Record(canister)], [],
    ),
    install_code: IDL.Func(
      [IDL.Record({
        mode: IDL.Variant({ install: IDL.Null, reinstall: IDL.Null }),
        ...canister,
        wasm_module: IDL.Vec(IDL.Nat8),
        arg: IDL.Vec(IDL.Nat8),
      })], [], [],
    ),
    start_canister: IDL.Func([IDL.Record(canister)], [], []),
    stop_canister: IDL.Func([IDL.Record(canister)], [], []),
    canister_status: IDL.Func(
      [IDL.Record(canister)],
      [IDL.Record({ status: IDL.Variant({ running: IDL.Null, stopping: IDL.Null, stopped: IDL.Null }) })], [],
    ),
    take_canister_snapshot: IDL.Func([IDL.Record(canister)], [taken], []),
    load_canister_snapshot: IDL.Func([IDL.Record({ ...canister, ...snapshot })], [], []),
    list_canister_snapshots: IDL.Func([IDL.Record(canister)], [IDL.Vec(taken)], []),
    delete_canister_snapshot: IDL.Func([IDL.Record({ ...canister, ...snapshot })], [], []),
  });
};

// Management calls are addressed to the canister they are about; a creation to any id of the subnet.
const anyCanister = Principal.fromHex("00000000000000000101");
const addressed = (_method, [{ canister_id }]) => ({ effectiveCanisterId: canister_id ?? anyCanister });

const newAgent = (identity, extra = {}) =>
  HttpAgent.create({
    host: process.env.PEER_URL,
    identity,
    rootKey: Uint8Array.from(Buffer.from(process.env.PEER_ROOT_KEY, "hex")),
    ...extra,
  });

const scenarios = {
  // Verified updates and queries with both kinds of identity, and one megabyte there and back.
  async calls(canisterId) {
    const outcome = [];
    for (const identity of [Ed25519KeyIdentity.generate(), Secp256k1KeyIdentity.generate()]) {
      const agent = await newAgent(identity);
      const counter = Actor.createActor(interfaceOfCounter, { agent, canisterId });
      outcome.push(Number(await counter.inc()), Number(await counter.get()));
      const sent = new Uint8Array(1_000_000).map((_, index) => index % 251);
      for (const echo of [counter.echo, counter.echo_query]) {
        outcome.push(Buffer.from(await echo(sent)).equals(Buffer.from(sent)));
      }
    }
    return outcome;
  },

  async trap(canisterId) {
    const counter = Actor.createActor(interfaceOfCounter, { agent: await newAgent(), canisterId });
    await counter.boom();
  },

  async inc(canisterId) {
    const counter = Actor.createActor(interfaceOfCounter, { agent: await newAgent(), canisterId });
    return Number(await counter.inc());
  },

  async get(canisterId) {
    const counter = Actor.createActor(interfaceOfCounter, { agent: await newAgent(), canisterId });
    return Number(await counter.get());
  },

  // Certified state, public and private.
  async state(canisterId) {
    const request = async (identity) => {
      const agent = await newAgent(identity);
      const found = await CanisterStatus.request({
        canisterId: Principal.fromText(canisterId),
        agent,
        paths: ["time", "module_hash", "controllers", "candid", "subnet"],
      });
      return {
        age: Date.now() - found.get("time").getTime(),
        module_hash: found.get("module_hash"),
        controllers: found.get("controllers").map((controller) => controller.toText()),
        candid: found.get("candid"),
        nodes: found.get("subnet").nodeKeys.size,
      };
    };
    return request(Ed25519KeyIdentity.generate());
  },

  // The life of a canister through the management canister.
  async management() {
    const agent = await newAgent(Ed25519KeyIdentity.generate());
    const management = Actor.createActor(interfaceOfManagement, {
      agent, canisterId: Principal.managementCanister(), callTransform: addressed,
    });
    const wasm_module = fs.readFileSync(process.env.PEER_WASM);
    const { canister_id } = await management.provisional_create_canister_with_cycles({ amount: [] });
    await management.install_code({ mode: { install: null }, canister_id, wasm_module, arg: new Uint8Array() });
    const counter = Actor.createActor(interfaceOfCounter, { agent, canisterId: canister_id });
    await counter.inc();
    await management.stop_canister({ canister_id });
    const snapshot = await management.take_canister_snapshot({ canister_id });
    await management.start_canister({ canister_id });
    await counter.inc();
    await management.stop_canister({ canister_id });
    await management.load_canister_snapshot({ canister_id, snapshot_id: snapshot.id });
    const status = await management.canister_status({ canister_id });
    await management.start_canister({ canister_id });
    const value = Number(await counter.get());
    const listed = (await management.list_canister_snapshots({ canister_id })).length;
    await management.delete_canister_snapshot({ canister_id, snapshot_id: snapshot.id });
    return { value, listed, status: Object.keys(status.status), total_size: Number(snapshot.total_size) };
  },
};

// The text of some errors cannot be made (the agent passes `undefined` on to its printer); their class says enough.
const describe = (error) => {
  const kinds = [error?.name, error?.cause?.code?.name, error?.cause?.code?.constructor?.name];
  try {
    return [...kinds, String(error)].join(" ");
  } catch {
    return kinds.join(" ");
  }
};

scenarios[process.argv[2]](...process.argv.slice(3)).then(
  (value) => console.log(JSON.stringify({ value })),
  (error) => console.log(JSON.stringify({ error: describe(error) })),
);
