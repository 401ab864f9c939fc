"""
The program ``age`` opens what we seal, we open what it seals, and both refuse the same damage.

Needs the Debian package ``age``; its passphrase prompts need ``script`` of util-linux, which gives them a terminal.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from knowtation_backup.codecs.age import AgeCodec, AgeIdentity
from knowtation_backup.codecs.chain import CodecChain
from knowtation_backup.codecs.compression import Compression
from knowtation_backup.codecs.keys import Passphrase
from knowtation_backup.errors import BackupError, NoMatchingKeyError, TamperedError, TruncatedError

pytestmark = pytest.mark.peers

TEXTS = {
    "empty": b"",
    "byte": b"x",
    "chunk": bytes(i % 251 for i in range(1 << 16)),
    "large": bytes(i % 251 for i in range(3_000_001)),
}
ALICE = AgeIdentity.generate()


def program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is not installed")
    return path


@pytest.fixture(scope="session")
def age() -> str:
    return program("age")


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    file = tmp_path / "alice"
    file.write_text(ALICE.text + "\n")
    return file


def run(*command: str, data: bytes = b"") -> bytes:
    return subprocess.run(command, input=data, capture_output=True, timeout=60, check=True).stdout  # noqa: S603 - the peer


def refused(*command: str, data: bytes) -> tuple[bytes, str]:
    """Return what the program released and what it said."""
    done = subprocess.run(command, input=data, capture_output=True, timeout=60, check=False)  # noqa: S603 - the peer
    assert done.returncode != 0
    return done.stdout, done.stderr.decode()


def seal(text: bytes) -> bytes:
    return b"".join(AgeCodec(seal_to=ALICE.recipient).seal([text]))


def opened(sealed: bytes) -> Iterator[bytes]:
    return AgeCodec(open_with=ALICE).open(lambda: iter([sealed]))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_age_opens_what_we_seal(age: str, identity: Path, text: bytes) -> None:
    assert run(age, "-d", "-i", str(identity), data=seal(text)) == text


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_we_open_what_age_seals(age: str, text: bytes) -> None:
    assert b"".join(opened(run(age, "-r", ALICE.recipient.text, data=text))) == text


def test_keys_of_age_keygen_are_ours(tmp_path: Path, age: str) -> None:
    file = run(program("age-keygen")).decode()
    identity = AgeIdentity.from_text(file)
    assert f"public key: {identity.recipient.text}" in file
    codec = AgeCodec(seal_to=[identity.recipient, ALICE.recipient])
    (tmp_path / "key").write_text(file)
    assert run(age, "-d", "-i", str(tmp_path / "key"), data=b"".join(codec.seal([b"text"]))) == b"text"


def test_ssh_keys_work_both_ways(tmp_path: Path, age: str) -> None:
    key = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    (tmp_path / "id").write_bytes(key)
    identity = AgeIdentity.from_text(key.decode())
    codec = AgeCodec(seal_to=identity.recipient, open_with=identity)
    assert run(age, "-d", "-i", str(tmp_path / "id"), data=b"".join(codec.seal([b"text"]))) == b"text"
    sealed = run(age, "-r", identity.recipient.text, data=b"text")
    assert b"".join(codec.open(lambda: iter([sealed]))) == b"text"


def test_compressed_and_sealed_opens_with_the_standard_programs(age: str, identity: Path) -> None:
    chain = CodecChain(Compression("gzip"), AgeCodec(seal_to=ALICE.recipient))
    assert chain.suffix == ".gz.age"
    compressed = run(age, "-d", "-i", str(identity), data=b"".join(chain.seal([TEXTS["large"]])))
    assert run(program("gzip"), "-dc", data=compressed) == TEXTS["large"]


def test_both_refuse_a_stranger(tmp_path: Path, age: str) -> None:
    stranger = AgeIdentity.generate()
    (tmp_path / "stranger").write_text(stranger.text)
    text, said = refused(age, "-d", "-i", str(tmp_path / "stranger"), data=seal(b"text"))
    assert text == b""
    assert "no identity matched" in said
    sealed = run(age, "-r", ALICE.recipient.text, data=b"text")
    with pytest.raises(NoMatchingKeyError):
        b"".join(AgeCodec(open_with=stranger).open(lambda: iter([sealed])))


def test_files_of_age_cut_anywhere_are_refused(age: str) -> None:
    text = TEXTS["large"][:200_000]
    sealed = run(age, "-r", ALICE.recipient.text, data=text)
    for size in range(0, len(sealed), 1000):
        parts: list[bytes] = []
        with pytest.raises((TruncatedError, TamperedError)):
            parts.extend(opened(sealed[:size]))
        assert text.startswith(b"".join(parts))


def test_ours_cut_or_changed_are_refused_by_age(age: str, identity: Path) -> None:
    text = TEXTS["large"][:200_000]
    sealed = seal(text)
    for damaged in (sealed[:-1], sealed[:100_000], sealed + b"x", sealed[:90_000] + b"\0\0" + sealed[90_002:]):
        released, _ = refused(age, "-d", "-i", str(identity), data=damaged)
        assert text.startswith(released)


def test_flipped_bits_in_files_of_age_are_refused(age: str) -> None:
    sealed = run(age, "-r", ALICE.recipient.text, data=b"attack at dawn")
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1 << position % 8
        with pytest.raises(BackupError):
            next(opened(bytes(changed)))


class TestPassphrases:
    CODEC = AgeCodec(seal_to=Passphrase(text="open sesame"))

    @staticmethod
    def at_a_terminal(command: list[str], answers: str) -> None:
        line = " ".join(map(shlex.quote, command))
        run(program("script"), "-qec", line, "/dev/null", data=answers.encode())

    def test_we_open_what_age_seals(self, tmp_path: Path, age: str) -> None:
        plain, sealed = tmp_path / "plain", tmp_path / "sealed"
        plain.write_bytes(TEXTS["chunk"])
        self.at_a_terminal([age, "-p", "-o", str(sealed), str(plain)], "open sesame\nopen sesame\n")
        assert b"".join(self.CODEC.open(lambda: iter([sealed.read_bytes()]))) == TEXTS["chunk"]
        with pytest.raises(NoMatchingKeyError):
            list(AgeCodec(open_with=Passphrase(text="open barley")).open(lambda: iter([sealed.read_bytes()])))

    def test_age_opens_what_we_seal(self, tmp_path: Path, age: str) -> None:
        plain, sealed = tmp_path / "plain", tmp_path / "sealed"
        sealed.write_bytes(b"".join(self.CODEC.seal([TEXTS["chunk"]])))
        self.at_a_terminal([age, "-d", "-o", str(plain), str(sealed)], "open sesame\n")
        assert plain.read_bytes() == TEXTS["chunk"]
