"""
Node's own crypto opens what we seal, and we open what it seals: the existing tools are Node programs.

Needs ``node`` only, no npm package. The scripts follow the documented rules and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from knowtation_backup.codecs.encv1 import EncV1Codec
from knowtation_backup.codecs.keys import EncryptionKey, Passphrase
from knowtation_backup.codecs.ktb1 import Ktb1Codec
from knowtation_backup.contracts import EncryptionCodec

pytestmark = pytest.mark.peers

KEY = EncryptionKey(raw=bytes(range(32)))
PASSPHRASE = Passphrase(text="correct pässwörd")
TEXTS = {
    "empty": b"",
    "short": '{"hello":"wörld"}'.encode(),
    "large": bytes(i % 251 for i in range(3_000_001)),
}

START = """
const fs = require("node:fs"), crypto = require("node:crypto");
const [source, target, secret] = process.argv.slice(1);
const input = fs.readFileSync(source);
const key = Buffer.from(secret, "hex");
"""
OPEN_KTB1 = """
if (input.subarray(0, 4).toString("ascii") !== "KTB1") throw new Error("magic");
const opening = crypto.createDecipheriv("aes-256-gcm", key, input.subarray(4, 16));
opening.setAuthTag(input.subarray(input.length - 16));
fs.writeFileSync(target, Buffer.concat([opening.update(input.subarray(16, input.length - 16)), opening.final()]));
"""
SEAL_KTB1 = """
const iv = crypto.randomBytes(12), sealing = crypto.createCipheriv("aes-256-gcm", key, iv);
const sealed = Buffer.concat([sealing.update(input), sealing.final()]);
fs.writeFileSync(target, Buffer.concat([Buffer.from("KTB1"), iv, sealed, sealing.getAuthTag()]));
"""
OPEN_ENCV1 = """
const file = JSON.parse(input.toString("utf8")), bytes = (name) => Buffer.from(file[name], "base64");
if (`${file.version} ${file.algorithm} ${file.kdf}` !== "enc-v1 aes-256-gcm pbkdf2-sha256") throw new Error("form");
const stretched = crypto.pbkdf2Sync(key.toString("utf8"), bytes("salt"), file.iterations, 32, "sha256");
const opening = crypto.createDecipheriv("aes-256-gcm", stretched, bytes("iv"));
opening.setAuthTag(bytes("tag"));
fs.writeFileSync(target, Buffer.concat([opening.update(bytes("ciphertext")), opening.final()]));
if (JSON.stringify(file, null, 2) !== input.toString("utf8")) throw new Error("layout");
"""
SEAL_ENCV1 = """
const salt = crypto.randomBytes(16), iv = crypto.randomBytes(12), iterations = 210000;
const stretched = crypto.pbkdf2Sync(key.toString("utf8"), salt, iterations, 32, "sha256");
const sealing = crypto.createCipheriv("aes-256-gcm", stretched, iv);
const ciphertext = Buffer.concat([sealing.update(input), sealing.final()]);
const b64 = (buffer) => buffer.toString("base64");
fs.writeFileSync(target, JSON.stringify({
  version: "enc-v1", algorithm: "aes-256-gcm", kdf: "pbkdf2-sha256", iterations,
  salt: b64(salt), iv: b64(iv), tag: b64(sealing.getAuthTag()), ciphertext: b64(ciphertext),
}, null, 2));
"""


class Format(NamedTuple):
    codec: EncryptionCodec
    secret: bytes
    opens: str
    seals: str


@pytest.fixture(params=["ktb1", "enc-v1"])
def form(request: pytest.FixtureRequest) -> Format:
    if request.param == "ktb1":
        return Format(Ktb1Codec(KEY), KEY.raw, OPEN_KTB1, SEAL_KTB1)
    return Format(EncV1Codec(PASSPHRASE), PASSPHRASE.text.encode(), OPEN_ENCV1, SEAL_ENCV1)


def run(node: str, script: str, data: bytes, secret: bytes, folder: Path) -> bytes:
    """Return what the script makes of *data*."""
    source, target = folder / "source", folder / "target"
    source.write_bytes(data)
    subprocess.run(  # noqa: S603 - the peer under test
        [node, "-e", START + script, str(source), str(target), secret.hex()],
        capture_output=True,
        timeout=60,
        check=True,
    )
    return target.read_bytes()


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_node_opens_what_we_seal(node: str, tmp_path: Path, form: Format, text: bytes) -> None:
    assert run(node, form.opens, b"".join(form.codec.seal([text])), form.secret, tmp_path) == text


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_we_open_what_node_seals(node: str, tmp_path: Path, form: Format, text: bytes) -> None:
    sealed = run(node, form.seals, text, form.secret, tmp_path)
    assert b"".join(form.codec.open(lambda: iter([sealed]))) == text


def test_node_refuses_what_was_changed_as_we_do(node: str, tmp_path: Path, form: Format) -> None:
    """Else the tests above would pass with scripts that check nothing."""
    sealed = b"".join(form.codec.seal([b"text"]))
    changed = sealed[:-8] + (b"B" if sealed[-8:-7] != b"B" else b"C") + sealed[-7:]
    with pytest.raises(subprocess.CalledProcessError, match="exit status 1"):
        run(node, form.opens, changed, form.secret, tmp_path)


def test_agentvaults_digest_of_an_encrypted_zip_is_that_of_the_stored_blob(node: str, tmp_path: Path) -> None:
    text = b"".join(EncV1Codec(PASSPHRASE).seal([b"PK"]))
    digest = (
        'fs.writeFileSync(target, crypto.createHash("sha256").update(input.toString("utf8"), "utf8").digest("hex"));'
    )
    assert run(node, digest, text, b"", tmp_path).decode() == hashlib.sha256(text).hexdigest()
    assert json.loads(text)["version"] == "enc-v1"
