"""openssl checks our signatures as the documentation says, and we check those it makes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from knowtation_backup.codecs.signing import SigningKey, check_manifest, sign_manifest
from knowtation_backup.model.signatures import SignatureFile, SignaturePolicy, VerifyKey

pytestmark = pytest.mark.peers

MANIFEST = b'{"format":"knowtation-backup-archive"}\n'
CONTEXT = b"knowtation-backup manifest v1\x00"


@pytest.fixture(scope="module")
def openssl() -> str:
    path = shutil.which("openssl")
    if path is None:
        pytest.skip("openssl is not installed")
    return path


def run(openssl: str, *words: object) -> str:
    done = subprocess.run(  # noqa: S603 - the peer under test
        [openssl, *map(str, words)], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def test_openssl_accepts_our_signatures_and_no_other_manifest(openssl: str, tmp_path: Path) -> None:
    (item,) = SignatureFile.from_bytes(sign_manifest(MANIFEST, [SigningKey.generate()])).signatures
    public, signature, message = tmp_path / "public.pem", tmp_path / "signature", tmp_path / "message"
    public.write_text(VerifyKey(raw=item.public_key).pem)
    signature.write_bytes(item.signature)
    words = ("pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", public, "-in", message, "-sigfile", signature)
    message.write_bytes(CONTEXT + MANIFEST)
    assert "Verified Successfully" in run(openssl, *words)
    message.write_bytes(CONTEXT + MANIFEST[:-1] + b" ")
    with pytest.raises(subprocess.CalledProcessError):
        run(openssl, *words)


def test_keys_and_signatures_of_openssl_are_ours_too(openssl: str, tmp_path: Path) -> None:
    private, sealed = tmp_path / "private.pem", tmp_path / "sealed.pem"
    signature, message = tmp_path / "signature", tmp_path / "message"
    run(openssl, "genpkey", "-algorithm", "ed25519", "-out", private)
    run(openssl, "pkey", "-in", private, "-aes256", "-passout", "pass:swordfish", "-out", sealed)
    private.chmod(0o600)
    sealed.chmod(0o600)
    message.write_bytes(CONTEXT + MANIFEST)
    run(openssl, "pkeyutl", "-sign", "-rawin", "-inkey", private, "-in", message, "-out", signature)
    key = SigningKey.load(private)
    assert SigningKey.load(sealed, password="swordfish") == key
    assert run(openssl, "pkey", "-in", private, "-pubout") == key.verify_key.pem
    assert key.sign(CONTEXT + MANIFEST) == signature.read_bytes()
    policy = SignaturePolicy(trusted=(run(openssl, "pkey", "-in", private, "-pubout"),))
    assert check_manifest(MANIFEST, sign_manifest(MANIFEST, [key]), policy) == []
