"""Keys, passphrases and pairs: strict to parse, impossible to see."""

import contextlib
import os
import pickle
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from knowtation_backup.codecs import keys
from knowtation_backup.codecs.keys import EncryptionKey, Passphrase, PrivateKey, PublicKey
from knowtation_backup.errors import BlobNotFoundError, ConfigurationError, SinkError

HEX = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"


@pytest.mark.parametrize("text", [HEX, HEX.upper(), f"  {HEX}\r\n", f"\t{HEX.title()}\n"])
def test_64_digits_of_either_case_with_space_around_are_a_key(text: str) -> None:
    assert EncryptionKey.from_hex(text).raw == bytes(range(32))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "0 characters"),
        ("   ", "0 characters"),
        (HEX[:-1], "63 characters"),
        (HEX + "0", "65 characters"),
        (HEX[:-1] + "g", "other characters"),
        (HEX[:32] + " " + HEX[32:-1], "other characters"),
        ("\u0661" * 64, "other characters"),
        ("0x" + HEX, "66 characters"),
    ],
)
def test_anything_else_names_the_length_and_not_the_content(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        EncryptionKey.from_hex(text)
    assert caught.value.kind == "bad_key_text"
    if text.strip():
        assert text.strip() not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@given(st.text(max_size=80))
def test_no_text_makes_a_short_key_or_another_error(text: str) -> None:
    try:
        key = EncryptionKey.from_hex(text)
    except ConfigurationError:
        return
    assert len(key.raw) == 32


@pytest.mark.parametrize("raw", [b"", bytes(31), bytes(33), bytearray(32), "x" * 32])
def test_raw_keys_are_32_bytes(raw: bytes) -> None:
    with pytest.raises(ConfigurationError) as caught:
        EncryptionKey(raw=raw)
    assert caught.value.kind == "bad_key_length"


def test_a_key_shows_its_id_only() -> None:
    key = EncryptionKey.from_hex(HEX)
    for shown in (repr(key), str(key), f"{key}"):
        assert HEX not in shown
        assert repr(key.raw) not in shown
        assert key.key_id in shown


def test_the_id_is_short_stable_and_no_plain_hash_of_the_key() -> None:
    assert EncryptionKey.from_hex(HEX).key_id == "5d29cc6047cb7307"
    assert EncryptionKey.from_hex(HEX).key_id != EncryptionKey.from_hex(HEX[::-1]).key_id


def test_generated_keys_differ_and_survive_pickle() -> None:
    one, two = EncryptionKey.generate(), EncryptionKey.generate()
    assert one != two
    assert EncryptionKey.from_hex(one.raw.hex()) == one
    assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301 - our own bytes


# Passphrases


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "empty_passphrase"),
        (" \t", "empty_passphrase"),
        ("secret\n", "bad_passphrase"),
        ("\rsecret", "bad_passphrase"),
        ("sec\0ret", "bad_passphrase"),
        ("secret\ud800", "bad_passphrase"),
        ("s" * 4097, "bad_passphrase"),
        (b"secret", "bad_passphrase"),
    ],
)
def test_passphrases_nobody_meant_are_refused_and_not_repeated(text: str, kind: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Passphrase(text=text)
    assert caught.value.kind == kind
    assert "secret" not in str(caught.value)


def test_a_passphrase_is_never_shown() -> None:
    words = Passphrase(text="correct horse")
    assert repr(words) == "Passphrase()"
    assert "horse" not in f"{words}{words!s}"
    assert pickle.loads(pickle.dumps(words)) == words  # noqa: S301 - our own bytes


def test_both_encodings_of_an_accent_are_one_passphrase_in_our_format_and_two_in_others() -> None:
    composed, decomposed = Passphrase(text="Z\u00fcrich"), Passphrase(text="Zu\u0308rich")
    assert composed.normalized == decomposed.normalized == b"Z\xc3\xbcrich"
    assert composed.text != decomposed.text
    assert Passphrase(text=" spaces stay ").normalized == b" spaces stay "


# Pairs

KINDS = ["x25519", "mlkem768x25519"]
PRIVATE = {
    "x25519": "kb-private-x25519:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8aFARH",
    "mlkem768x25519": "kb-private-mlkem768x25519:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8RYCfK",
}
IDS = {"x25519": "914b3e5985d65b67", "mlkem768x25519": "139d0bb08987a011"}


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_go_through_text_and_pickle(kind: str) -> None:
    private = PrivateKey.generate(kind)
    public = private.public_key
    assert PrivateKey.from_text(f" {private.to_text()}\n") == private
    assert PublicKey.from_text(f"\t{public.to_text()}\r\n") == public
    assert private.key_id == public.key_id
    assert pickle.loads(pickle.dumps((private, public))) == (private, public)  # noqa: S301 - our own bytes
    assert PrivateKey.generate(kind) != private


@pytest.mark.parametrize("kind", KINDS)
def test_texts_and_ids_of_released_keys_never_change(kind: str) -> None:
    private = PrivateKey(kind=kind, raw=bytes(range(32)))
    assert private.to_text() == PRIVATE[kind]
    assert private.key_id == IDS[kind]


def test_the_hybrid_is_x_wing() -> None:
    """First vector of the X-Wing draft (draft-connolly-cfrg-xwing-kem, appendix C)."""
    seed = "7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26"
    public = PrivateKey(kind="mlkem768x25519", raw=bytes.fromhex(seed)).public_key.raw
    assert len(public) == 1216
    assert public[:32].hex() == "e2236b35a8c24b39b10aa1323a96a919a2ced88400633a7b07131713fc14b2b5"


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_character_anywhere_is_noticed(kind: str) -> None:
    for text, parse in (
        (PrivateKey.generate(kind).to_text(), PrivateKey.from_text),
        (PrivateKey.generate(kind).public_key.to_text(), PublicKey.from_text),
    ):
        for position in range(0, len(text), max(1, len(text) // 100)):
            wrong = "A" if text[position] != "A" else "B"
            with pytest.raises(ConfigurationError) as caught:
                parse(text[:position] + wrong + text[position + 1 :])
            assert caught.value.kind == "bad_key_text"
            assert text.partition(":")[2][:20] not in str(caught.value)
        for changed in (text[:-1], text + "A", text + "=", text.replace("kb-", "KB-"), text.partition(":")[2]):
            with pytest.raises(ConfigurationError):
                parse(changed)


def test_halves_and_kinds_are_not_confused() -> None:
    private = PrivateKey.generate("x25519")
    with pytest.raises(ConfigurationError, match="it is a private one"):
        PublicKey.from_text(private.to_text())
    with pytest.raises(ConfigurationError, match="it is a public one"):
        PrivateKey.from_text(private.public_key.to_text())
    with pytest.raises(ConfigurationError, match="knows the kinds"):
        PublicKey.from_text(private.public_key.to_text().replace("x25519", "x448"))
    hybrid = private.to_text().replace("x25519", "mlkem768x25519")
    with pytest.raises(ConfigurationError, match="checksum"):
        PrivateKey.from_text(hybrid)


@given(st.text(max_size=80) | st.from_regex(r"kb-(public|private)-x25519:[A-Za-z0-9_-]{44,52}", fullmatch=True))
def test_no_text_makes_another_error(text: str) -> None:
    for parse in (PublicKey.from_text, PrivateKey.from_text, PublicKey.from_pem, PrivateKey.from_pem):
        with contextlib.suppress(ConfigurationError):
            parse(text)


@pytest.mark.parametrize("kind", KINDS)
def test_private_keys_show_their_id_only(kind: str) -> None:
    private = PrivateKey.generate(kind)
    for shown in (repr(private), str(private), f"{private}"):
        assert private.raw.hex() not in shown
        assert repr(private.raw) not in shown
        assert private.to_text().partition(":")[2] not in shown
        assert private.key_id in shown
    assert len(repr(private.public_key)) < 80


@pytest.mark.parametrize(
    ("half", "kind", "raw", "found"),
    [
        (PrivateKey, "x25519", bytes(31), "bad_key_length"),
        (PrivateKey, "mlkem768x25519", bytes(64), "bad_key_length"),
        (PrivateKey, "x25519", "x" * 32, "bad_key_length"),
        (PrivateKey, "rsa", bytes(32), "bad_option"),
        (PublicKey, "x25519", bytes(33), "bad_key_length"),
        (PublicKey, "mlkem768x25519", bytes(32), "bad_key_length"),
        (PublicKey, "x25519", bytes(32), "bad_public_key"),
        (PublicKey, "x25519", b"\1" + bytes(31), "bad_public_key"),
        (PublicKey, "mlkem768x25519", b"\xff" * 1216, "bad_public_key"),
        (PublicKey, "mlkem768x25519", bytes(1216), "bad_public_key"),
    ],
)
def test_halves_that_cannot_be_are_refused(half: type[PublicKey], kind: str, raw: bytes, found: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        half(kind=kind, raw=raw)
    assert caught.value.kind == found


def test_a_cryptography_without_ml_kem_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise UnsupportedAlgorithm("ML-KEM-768 is not supported by this backend.")

    text = PrivateKey.generate().public_key.to_text()
    monkeypatch.setattr(MLKEM768PrivateKey, "generate", refuse)
    keys._has_mlkem.cache_clear()
    try:
        for use in (PrivateKey.generate, lambda: PublicKey.from_text(text)):
            with pytest.raises(ConfigurationError) as caught:
                use()
            assert caught.value.kind == "missing_algorithm"
        PrivateKey.generate("x25519")
    finally:
        keys._has_mlkem.cache_clear()


def test_pem_of_other_programs_is_read() -> None:
    key = X25519PrivateKey.generate()
    formats = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    plain = key.private_bytes(*formats, serialization.NoEncryption())
    locked = key.private_bytes(*formats, serialization.BestAvailableEncryption(b"correct horse"))
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    private = PrivateKey.from_pem(plain)
    assert private.raw == key.private_bytes_raw()
    assert PrivateKey.from_pem(locked.decode(), passphrase=Passphrase(text="correct horse")) == private
    assert PublicKey.from_pem(public) == private.public_key
    for pem, words in ((locked, None), (locked, "wrong"), (plain, "unneeded"), (public, None), (b"", None)):
        with pytest.raises(ConfigurationError) as caught:
            PrivateKey.from_pem(pem, passphrase=Passphrase(text=words) if words else None)
        assert caught.value.kind == "bad_key_text"
        assert caught.value.__context__ is None
    for pem in (plain, b"", b"x" * 70_000):
        with pytest.raises(ConfigurationError):
            PublicKey.from_pem(pem)
    ed25519 = Ed25519PrivateKey.generate().private_bytes(*formats, serialization.NoEncryption())
    with pytest.raises(ConfigurationError, match="X25519"):
        PrivateKey.from_pem(ed25519)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")
def test_pairs_made_by_openssl_are_read(tmp_path: Path) -> None:
    def openssl(*arguments: str) -> str:
        command = ["openssl", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout  # noqa: S603 - fixed words

    (tmp_path / "key.pem").write_text(openssl("genpkey", "-algorithm", "x25519"))
    (tmp_path / "key.pem").chmod(0o600)
    assert (
        PublicKey.from_pem(openssl("pkey", "-in", "key.pem", "-pubout"))
        == PrivateKey.load(tmp_path / "key.pem").public_key
    )


class TestKeyFiles:
    def test_a_new_one_is_private_and_read_again(self, tmp_path: Path) -> None:
        path = tmp_path / "keys" / "restore.key"
        private = PrivateKey.load_or_create(path)
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert PrivateKey.load_or_create(path, kind="x25519") == PrivateKey.load(path) == private
        assert private.kind == "mlkem768x25519"
        assert private.public_key.to_text() in path.read_text()
        assert [item.name for item in path.parent.iterdir()] == ["restore.key"]

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o666])
    def test_one_that_others_may_use_is_refused(self, tmp_path: Path, mode: int) -> None:
        path = tmp_path / "restore.key"
        private = PrivateKey.load_or_create(path, kind="x25519")
        path.chmod(mode)
        for use in (PrivateKey.load, PrivateKey.load_or_create):
            with pytest.raises(ConfigurationError) as caught:
                use(path)
            assert caught.value.kind == "key_file_exposed"
            assert "chmod 600" in str(caught.value)
            assert private.to_text() not in str(caught.value)

    @pytest.mark.parametrize("content", ["", "# only a comment\n", "kb-private-x25519:AAAA\n", "{}", "x" * 70_000])
    def test_one_without_a_key_is_refused_and_left_alone(self, tmp_path: Path, content: str) -> None:
        path = tmp_path / "restore.key"
        path.touch(mode=0o600)
        path.write_text(content)
        for use in (PrivateKey.load, PrivateKey.load_or_create):
            with pytest.raises(ConfigurationError) as caught:
                use(path)
            assert caught.value.kind == "bad_key_text"
        assert path.read_text() == content

    def test_what_is_no_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(BlobNotFoundError, match="reading"):
            PrivateKey.load(tmp_path / "absent")
        os.mkfifo(tmp_path / "pipe", 0o600)
        for name in ("pipe", "."):
            with pytest.raises(ConfigurationError, match="no regular file"):
                PrivateKey.load(tmp_path / name)
        (tmp_path / "plain").touch()
        with pytest.raises(SinkError, match="writing"):
            PrivateKey.load_or_create(tmp_path / "plain" / "restore.key")

    def test_two_at_once_end_with_one_key(self, tmp_path: Path) -> None:
        path = tmp_path / "restore.key"
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: PrivateKey.load_or_create(path, kind="x25519"), range(8)))
        assert len(set(found)) == 1
