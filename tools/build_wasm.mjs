// Compiles the sandbox's Motoko canisters to the Wasm and Candid files that are committed beside them.
//
//   node tools/build_wasm.mjs          write the files
//   node tools/build_wasm.mjs --check  fail when a committed file is not exactly what the source gives
//
// The compiler's output depends on nothing but the sources and the compiler's version (tools/package-lock.json), so
// a byte-wise comparison proves what the committed Wasm was made from.

import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import path from "node:path";

const ACTORS = ["hub", "attestation"];
const METADATA = ["candid:service", "candid:args", "motoko:stable-types"];
const ERROR = 1; // severity of a diagnostic that stops compilation

const folder = fileURLToPath(new URL("../src/knowtation_backup/sandbox/hub/", import.meta.url));
const sources = path.join(folder, "motoko");
const target = path.join(folder, "wasm");

const require = createRequire(import.meta.url);
const motoko = require("motoko");
motoko.loadPackage(require("motoko/packages/latest/core.json"));
for (const name of readdirSync(sources).filter((file) => file.endsWith(".mo"))) {
  motoko.write(name, readFileSync(path.join(sources, name), "utf8"));
}
motoko.setPublicMetadata(METADATA);

function compile(actor) {
  const diagnostics = motoko.check(`${actor}.mo`);
  for (const { source, range, message, code } of diagnostics) {
    console.error(`${source}:${range.start.line + 1}:${range.start.character + 1}: ${code ?? ""} ${message}`);
  }
  if (diagnostics.some(({ severity }) => severity === ERROR)) {
    process.exit(1); // an uncaught error would print the compiler, which is one line of megabytes
  }
  const { wasm, candid } = motoko.wasm(`${actor}.mo`, "ic");
  return { [`${actor}.wasm`]: Buffer.from(wasm), [`${actor}.did`]: Buffer.from(candid) };
}

const outputs = Object.assign({}, ...ACTORS.map(compile));
if (process.argv.includes("--check")) {
  const stale = Object.entries(outputs).filter(([name, content]) => {
    const file = path.join(target, name);
    return !existsSync(file) || !readFileSync(file).equals(content);
  });
  for (const [name] of stale) {
    console.error(`${name} is not what the source gives: run this script without --check and commit the result`);
  }
  process.exitCode = stale.length === 0 ? 0 : 1;
} else {
  mkdirSync(target, { recursive: true });
  for (const [name, content] of Object.entries(outputs)) {
    writeFileSync(path.join(target, name), content);
    console.log(`${name}: ${content.length} bytes`);
  }
}
