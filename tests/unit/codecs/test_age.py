"""age files: streamed both ways, nothing released that was not verified, everything wrong has a name."""

import base64
import contextlib
import hashlib
import hmac
import json
import re
import sys
import threading
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from knowtation_backup.codecs import age_keys
from knowtation_backup.codecs.age import AgeCodec, AgeIdentity, AgeOptions, AgeRecipient, age_key_check
from knowtation_backup.codecs.keys import EncryptionKey, Passphrase
from knowtation_backup.errors import (
    BackupError,
    BlobNotFoundError,
    ConfigurationError,
    DecryptionError,
    NoMatchingKeyError,
    SinkPermissionError,
    TamperedError,
    TruncatedError,
    UnsupportedFormatError,
)
from knowtation_backup.model.manifest import CodecSpec

GOLDEN = sorted((Path(__file__).parents[2] / "golden" / "age").glob("*.json"))
MIB = 1 << 20
CHUNK = 1 << 16
ALICE, BOB = AgeIdentity.generate(), AgeIdentity.generate()
CODEC = AgeCodec(seal_to=ALICE.recipient, open_with=ALICE)
SESAME = Passphrase(text="open sesame")


def seal(text: bytes, codec: AgeCodec = CODEC) -> bytes:
    return b"".join(codec.seal([text]))


def open_bytes(sealed: bytes, codec: AgeCodec = CODEC) -> bytes:
    return b"".join(codec.open(lambda: iter([sealed])))


def released(sealed: bytes, codec: AgeCodec = CODEC) -> tuple[bytes, BackupError]:
    """Return what comes before the error."""
    parts: list[bytes] = []
    with pytest.raises(BackupError) as caught:
        parts.extend(codec.open(lambda: iter([sealed])))
    return b"".join(parts), caught.value


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def header_size(sealed: bytes) -> int:
    found = re.search(rb"\n--- [^\n]{43}\n", sealed)
    assert found
    return found.end()


def b64(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")


def sealed_with_passphrase(text: bytes, passphrase: bytes, work_factor: int = 4) -> bytes:
    """Seal by the age specification, as no program does: with a work factor that is quick."""

    def derive(key: bytes, salt: bytes, info: bytes) -> bytes:
        return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=info).derive(key)

    file_key, salt, nonce = b"k" * 16, b"s" * 16, b"n" * 16
    label = b"age-encryption.org/v1/scrypt" + salt
    wrapping = hashlib.scrypt(passphrase, salt=label, n=1 << min(work_factor, 10), r=8, p=1, dklen=32)
    body = ChaCha20Poly1305(wrapping).encrypt(bytes(12), file_key, None)
    header = b"age-encryption.org/v1\n-> scrypt %s %d\n%s\n---" % (b64(salt), work_factor, b64(body))
    mac = hmac.digest(derive(file_key, b"", b"header"), header, "sha256")
    payload = ChaCha20Poly1305(derive(file_key, nonce, b"payload"))
    chunks = cut(text, CHUNK) or [b""]
    sealed = [
        payload.encrypt(number.to_bytes(11, "big") + bytes([number == len(chunks) - 1]), chunk, None)
        for number, chunk in enumerate(chunks)
    ]
    return header + b" " + b64(mac) + b"\n" + nonce + b"".join(sealed)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_vectors(path: Path) -> None:
    vector = json.loads(path.read_text(encoding="utf-8"))
    key: AgeIdentity | Passphrase
    key = Passphrase(text=vector["passphrase"]) if "passphrase" in vector else AgeIdentity.from_text(vector["identity"])
    parts: list[bytes] = []
    try:
        parts.extend(AgeCodec(open_with=key).open(lambda: iter([bytes.fromhex(vector["sealed"])])))
        outcome = "ok"
    except BackupError as error:
        outcome = error.kind
    assert outcome == vector["outcome"]
    assert b"".join(parts).hex() == vector["released"]


def test_there_are_vectors() -> None:
    assert len(GOLDEN) >= 15


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * MIB + 17])
def test_any_size_comes_back(size: int) -> None:
    text = bytes(i % 251 for i in range(size))
    sealed = b"".join(CODEC.seal(cut(text, 100_001)))
    pieces = list(CODEC.open(lambda: iter(cut(sealed, 70_001))))
    assert b"".join(pieces) == text
    assert max(map(len, pieces), default=0) <= MIB + CHUNK
    assert sealed.startswith(b"age-encryption.org/v1\n-> X25519 ")


@settings(max_examples=30, deadline=None)
@given(text=st.binary(max_size=300), plain_cut=st.integers(1, 40), sealed_cut=st.integers(1, 40))
def test_chunks_may_fall_anywhere(text: bytes, plain_cut: int, sealed_cut: int) -> None:
    sealed = b"".join(CODEC.seal([b"", *cut(text, plain_cut), b""]))
    assert b"".join(CODEC.open(lambda: iter([b"", *cut(sealed, sealed_cut), b""]))) == text


def test_every_recipient_opens_it_and_nobody_else() -> None:
    codec = AgeCodec(seal_to=[ALICE.recipient, BOB.recipient.text])
    sealed = seal(b"text", codec)
    for identity in (ALICE, BOB):
        assert open_bytes(sealed, AgeCodec(open_with=identity)) == b"text"
    stranger = AgeIdentity.generate()
    with pytest.raises(NoMatchingKeyError, match=stranger.key_id):
        open_bytes(sealed, AgeCodec(open_with=[stranger]))


def test_a_host_that_only_writes_cannot_open() -> None:
    codec = AgeCodec(seal_to=ALICE.recipient.text)
    with pytest.raises(NoMatchingKeyError, match="no identity was given"):
        open_bytes(seal(b"text", codec), codec)


def test_a_codec_without_recipients_cannot_seal() -> None:
    with pytest.raises(ConfigurationError) as caught:
        AgeCodec(open_with=ALICE).seal([b"text"])
    assert caught.value.kind == "no_recipient"


class TestDamage:
    def test_every_flipped_bit_is_noticed_before_anything_is_released(self) -> None:
        sealed = seal(b"attack at dawn, the usual place")
        for position in range(len(sealed)):
            changed = bytearray(sealed)
            changed[position] ^= 1 << position % 8
            text, error = released(bytes(changed))
            assert text == b""
            assert isinstance(error, (DecryptionError, UnsupportedFormatError, TruncatedError)), position

    def test_every_cut_is_noticed(self) -> None:
        sealed = seal(b"attack at dawn")
        begins = header_size(sealed) + 16
        for size in range(len(sealed)):
            text, error = released(sealed[:size])
            assert text == b""
            assert isinstance(error, TruncatedError if size <= begins else TamperedError), size

    def test_a_cut_between_chunks_releases_genuine_chunks_and_then_fails(self) -> None:
        plain = bytes(i % 251 for i in range(20 * CHUNK))
        sealed = seal(plain)
        size = header_size(sealed) + 16 + 18 * (CHUNK + 16)
        text, error = released(sealed[:size])
        assert isinstance(error, TruncatedError)
        assert plain.startswith(text)
        assert len(text) >= 16 * CHUNK

    def test_a_changed_chunk_is_not_released(self) -> None:
        plain = bytes(i % 251 for i in range(20 * CHUNK))
        sealed = bytearray(seal(plain))
        sealed[header_size(bytes(sealed)) + 16 + 18 * (CHUNK + 16) + 5] ^= 1
        text, error = released(bytes(sealed))
        assert isinstance(error, TamperedError)
        assert plain.startswith(text)
        assert len(text) <= 18 * CHUNK

    @pytest.mark.parametrize("size", [4, CHUNK])
    def test_what_follows_is_noticed(self, size: int) -> None:
        text, error = released(seal(bytes(size)) + b"more")
        assert isinstance(error, TamperedError)
        assert len(text) <= size

    def test_chunks_of_another_file_do_not_fit(self) -> None:
        first, second = seal(bytes(2 * CHUNK)), seal(bytes(2 * CHUNK))
        begins = header_size(first) + 16
        mixed = first[:begins] + second[header_size(second) + 16 :]
        assert isinstance(released(mixed)[1], TamperedError)

    @pytest.mark.parametrize(
        ("data", "expected", "kind"),
        [
            (b"", TruncatedError, "truncated"),
            (b"age-encryption.org/v1", TruncatedError, "truncated"),
            (b"age-encryption.org/v2\n-> X25519 ", UnsupportedFormatError, "unsupported_format"),
            (b"KTB1" + bytes(40), UnsupportedFormatError, "bad_magic"),
            (b'{"version": "enc-v1"}', UnsupportedFormatError, "bad_magic"),
            (b"-----BEGIN AGE ENCRYPTED FILE-----\n", UnsupportedFormatError, "armored"),
            (b"age-encryption.org/v1\n" + b"-> a\n\n" * 100_000, TamperedError, "bad_header"),
            (b"age-encryption.org/v1\n" + b"x" * MIB, TamperedError, "bad_header"),
            (b"age-encryption.org/v1\n--- " + b"A" * 43 + b"\n" + bytes(40), DecryptionError, None),
        ],
        ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else None,
    )
    def test_foreign_and_hostile_bytes_have_names(
        self, data: bytes, expected: type[BackupError], kind: str | None
    ) -> None:
        text, error = released(data)
        assert text == b""
        assert isinstance(error, expected)
        assert kind in {None, error.kind}

    @settings(max_examples=100, deadline=None)
    @given(data=st.binary(max_size=100), insert=st.integers(0, 300), genuine=st.booleans())
    def test_arbitrary_bytes_open_or_are_errors(self, data: bytes, insert: int, *, genuine: bool) -> None:
        sealed = seal(b"text")
        with contextlib.suppress(BackupError):
            assert open_bytes(sealed[:insert] + data + sealed[insert:] if genuine else data) == b"text"

    def test_a_header_in_single_bytes_is_read_once(self) -> None:
        with pytest.raises(TamperedError):
            list(CODEC.open(lambda: (bytes([65 if i > 22 else b"age-encryption.org/v1\n-"[i]]) for i in range(MIB))))


class TestStreaming:
    def test_sealing_and_opening_take_little_memory(self) -> None:
        piece = bytes(MIB)
        tracemalloc.start()
        size = sum(map(len, CODEC.open(lambda: CODEC.seal(piece for _ in range(64)))))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert size == 64 * MIB
        assert peak < 12 * MIB

    def test_chunks_are_taken_when_they_are_needed_and_in_the_callers_thread(self) -> None:
        threads: list[threading.Thread] = []

        def chunks() -> Iterator[bytes]:
            for _ in range(100):
                threads.append(threading.current_thread())
                yield bytes(MIB)

        sealing = CODEC.seal(chunks())
        next(sealing)
        assert len(threads) <= 3
        assert set(threads) == {threading.current_thread()}

    def test_no_thread_is_left_whatever_happens(self) -> None:
        before = threading.active_count()
        sealed = seal(bytes(5 * MIB))
        for started in (CODEC.seal([bytes(5 * MIB)]), CODEC.open(lambda: iter([sealed]))):
            next(started)
            assert threading.active_count() == before + 1
            started.close()  # type: ignore[attr-defined]
            assert threading.active_count() == before
        released(sealed[:-1])
        released(sealed, AgeCodec(open_with=BOB))
        assert threading.active_count() == before

    @pytest.mark.parametrize("error", [BlobNotFoundError("gone"), SinkPermissionError("no"), KeyboardInterrupt()])
    def test_errors_of_the_source_pass_through(self, error: BaseException) -> None:
        before = threading.active_count()

        def broken() -> Iterator[bytes]:
            yield bytes(3 * MIB)
            raise error

        sealed = seal(bytes(5 * MIB))

        def half() -> Iterator[bytes]:
            yield sealed[: 3 * MIB]
            raise error

        for started in (CODEC.seal(broken()), CODEC.open(half)):
            with pytest.raises(type(error)) as caught:
                list(started)
            assert caught.value is error
        assert threading.active_count() == before

    def test_the_stored_bytes_are_closed_when_opening_stops(self) -> None:
        closed = []
        sealed = seal(bytes(5 * MIB))

        def read() -> Iterator[bytes]:
            try:
                yield from cut(sealed, 1000)
            finally:
                closed.append(True)

        opening = CODEC.open(read)
        next(opening)
        assert not closed
        opening.close()  # type: ignore[attr-defined]
        assert closed


class TestPassphrases:
    CODEC = AgeCodec(open_with=[BOB, SESAME])

    @pytest.mark.parametrize("size", [0, 5, CHUNK, 2 * CHUNK + 1])
    def test_a_file_by_the_specification_opens(self, size: int) -> None:
        text = bytes(i % 251 for i in range(size))
        sealed = sealed_with_passphrase(text, b"open sesame")
        assert b"".join(self.CODEC.open(lambda: iter(cut(sealed, 1000)))) == text

    def test_what_we_seal_comes_back(self) -> None:
        codec = AgeCodec(seal_to=SESAME)
        sealed = seal(b"text", codec)
        assert sealed.startswith(b"age-encryption.org/v1\n-> scrypt ")
        assert open_bytes(sealed, codec) == b"text"

    def test_another_passphrase_is_no_matching_key(self) -> None:
        text, error = released(sealed_with_passphrase(b"text", b"open barley"), self.CODEC)
        assert isinstance(error, NoMatchingKeyError)
        assert text == b""
        assert "sesame" not in f"{error!r} {error.context} {self.CODEC!r}"

    def test_several_are_tried(self) -> None:
        codec = AgeCodec(open_with=[Passphrase(text="a"), SESAME])
        assert open_bytes(sealed_with_passphrase(b"text", b"open sesame"), codec) == b"text"

    def test_files_of_the_other_kind_say_so(self) -> None:
        with pytest.raises(NoMatchingKeyError, match="passphrase, and none was given"):
            open_bytes(sealed_with_passphrase(b"text", b"open sesame"))
        with pytest.raises(NoMatchingKeyError, match="no identity was given"):
            open_bytes(seal(b"text"), AgeCodec(open_with=SESAME))

    def test_damage_is_noticed_before_anything_is_released(self) -> None:
        sealed = sealed_with_passphrase(bytes(CHUNK + 5), b"open sesame")
        begins = header_size(sealed)
        for position in [*range(22, begins), begins, begins + 16, begins + 16 + CHUNK + 16, len(sealed) - 1]:
            changed = bytearray(sealed)
            changed[position] ^= 1
            text, error = released(bytes(changed), AgeCodec(open_with=SESAME))
            assert text == b""
            assert isinstance(error, (DecryptionError, TruncatedError)), position
            if position >= begins:
                assert error.kind == "tampered"

    def test_cuts_are_noticed(self) -> None:
        sealed = sealed_with_passphrase(bytes(CHUNK + 5), b"open sesame")
        for size in range(0, len(sealed), 4001):
            assert isinstance(released(sealed[:size], self.CODEC)[1], (TruncatedError, TamperedError))
        boundary = sealed[: header_size(sealed) + 16 + CHUNK + 16]
        assert isinstance(released(boundary, self.CODEC)[1], TruncatedError)

    def test_a_work_factor_beyond_reason_is_refused_before_any_work(self) -> None:
        sealed = sealed_with_passphrase(b"text", b"open sesame", 21)
        with pytest.raises(DecryptionError, match="max_work_factor") as caught:
            open_bytes(sealed, self.CODEC)
        assert caught.value.kind == "excessive_parameters"

    def test_the_size_is_limited_both_ways(self) -> None:
        codec = AgeCodec(seal_to=SESAME, options=AgeOptions(limit_bytes=MIB))
        with pytest.raises(ConfigurationError, match="KTB2") as caught:
            list(codec.seal([bytes(MIB), b"x"]))
        assert caught.value.kind == "payload_too_large"
        head = sealed_with_passphrase(b"", b"open sesame")
        with pytest.raises(UnsupportedFormatError) as refused:
            list(codec.open(lambda: iter([head, *([bytes(MIB)] * 3)])))
        assert refused.value.kind == "payload_too_large"

    def test_a_passphrase_goes_with_nothing_else(self) -> None:
        with pytest.raises(ConfigurationError, match="nothing else") as caught:
            AgeCodec(seal_to=[SESAME, ALICE.recipient])
        assert caught.value.kind == "bad_recipient"


class TestKeys:
    def test_identities_are_secret_and_recipients_named(self) -> None:
        assert ALICE.text.startswith("AGE-SECRET-KEY-1")
        shown = f"{ALICE!r} {ALICE.recipient!r} {CODEC!r}"
        assert ALICE.text not in shown
        assert shown.count(ALICE.key_id) == 4
        assert ALICE.key_id == ALICE.recipient.key_id != BOB.key_id
        assert re.fullmatch("[0-9a-f]{16}", ALICE.key_id)

    def test_an_identity_is_read_from_the_file_of_age_keygen(self) -> None:
        file = f"# created: 2026-04-08T15:30:22Z\n# public key: {ALICE.recipient.text}\n{ALICE.text}\n"
        assert AgeIdentity.from_text(file) == ALICE
        assert AgeRecipient.from_text(f" {ALICE.recipient.text}\n") == ALICE.recipient

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "age1",
            "AGE-SECRET-KEY-1QQ",
            f"{ALICE.text}\n{BOB.text}",
            ALICE.text[:-1],
            ALICE.recipient.text,
            "\ud800",
        ],
        ids=["nothing", "a recipient's prefix", "a cut prefix", "two", "one cut by one", "a recipient", "a surrogate"],
    )
    def test_what_is_no_identity_is_refused_without_repeating_it(self, text: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            AgeIdentity.from_text(text)
        assert caught.value.kind == "bad_key_text"
        assert "AGE-SECRET-KEY-1QQ" not in f"{caught.value.message} {caught.value.context} {caught.value.__cause__}"

    @pytest.mark.parametrize(
        "text",
        ["", "age1", ALICE.text, ALICE.recipient.text[:-1], "ssh-dss AAAA", "ssh-rsa", "a b"],
        ids=["nothing", "a prefix", "an identity", "one cut by one", "ssh-dss", "ssh-rsa alone", "words"],
    )
    def test_what_is_no_recipient_is_refused(self, text: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            AgeRecipient.from_text(text)
        assert caught.value.kind == "bad_key_text"
        assert ALICE.text not in f"{caught.value}"

    @pytest.mark.parametrize("kind", ["ed25519", "rsa"])
    def test_ssh_keys_seal_and_open(self, kind: str) -> None:
        key = ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else rsa.generate_private_key(65537, 2048)
        identity = AgeIdentity.from_text(pem(key))
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        recipient = AgeRecipient.from_text(f"{public} somebody@host")
        assert recipient == identity.recipient
        codec = AgeCodec(seal_to=[recipient, ALICE.recipient], open_with=identity)
        assert open_bytes(seal(b"text", codec), codec) == b"text"
        assert codec.spec.key_ids == (identity.key_id, ALICE.key_id)

    def test_ssh_keys_of_other_kinds_or_with_a_passphrase_are_refused(self) -> None:
        for text in (
            pem(ec.generate_private_key(ec.SECP256R1())),
            pem(ed25519.Ed25519PrivateKey.generate(), BestAvailableEncryption(b"x")),
            "-----BEGIN OPENSSH PRIVATE KEY-----\nnonsense",
        ):
            with pytest.raises(ConfigurationError, match="SSH") as caught:
                AgeIdentity.from_text(text)
            assert caught.value.kind == "bad_key_text"

    @pytest.mark.parametrize("wrong", [ALICE, b"age1", EncryptionKey.generate()])
    def test_only_recipients_are_sealed_to(self, wrong: object) -> None:
        with pytest.raises(ConfigurationError) as caught:
            AgeCodec(seal_to=cast("Iterable[str]", [wrong]))
        assert caught.value.kind == "bad_recipient"

    def test_only_identities_open(self) -> None:
        with pytest.raises(ConfigurationError) as caught:
            AgeCodec(open_with=cast("Iterable[AgeIdentity]", [ALICE.recipient]))
        assert caught.value.kind == "bad_recipient"

    def test_without_the_package_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pyrage", None)
        for attempt in (AgeIdentity.generate, AgeCodec, lambda: AgeRecipient.from_text("age1x"), age_keys.pyrage):
            with pytest.raises(ConfigurationError, match=r"knowtation-backup\[age\]") as caught:
                attempt()
            assert caught.value.kind == "missing_extra"


def pem(key: object, encryption: KeySerializationEncryption | None = None) -> str:
    private = cast("ed25519.Ed25519PrivateKey", key)
    return private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, encryption or NoEncryption()).decode()


class TestManifests:
    def test_a_manifest_names_the_recipients(self) -> None:
        assert AgeCodec(seal_to=[ALICE.recipient, BOB.recipient]).spec == CodecSpec(
            name="age", key_ids=(ALICE.key_id, BOB.key_id)
        )
        assert AgeCodec(open_with=ALICE).spec == CodecSpec(name="age", key_ids=(ALICE.key_id,))
        assert AgeCodec(seal_to=SESAME, open_with=[ALICE]).spec == CodecSpec(name="age")
        assert CODEC.suffix == ".age"

    def test_the_codec_is_found_by_the_identities_it_holds(self) -> None:
        both = CodecSpec(name="age", key_ids=(ALICE.key_id, BOB.key_id))
        bobs = CodecSpec(name="age", key_ids=(BOB.key_id,))
        assert CODEC.for_spec(both) is CODEC
        assert CODEC.for_spec(bobs) is None
        assert AgeCodec(seal_to=ALICE.recipient, open_with=BOB).for_spec(bobs) is not None
        assert CODEC.for_spec(CodecSpec(name="age")) is CODEC
        assert CODEC.for_spec(CodecSpec(name="ktb1")) is None

    def test_a_key_is_checked_against_the_header_alone(self) -> None:
        sealed = seal(bytes(MIB), AgeCodec(seal_to=[ALICE.recipient, BOB.recipient]))
        stranger = AgeIdentity.generate()
        head = sealed[: header_size(sealed) + 16]
        assert age_key_check(lambda: iter([head]), [stranger, BOB, SESAME, ALICE]) == (BOB, ALICE)
        with pytest.raises(TamperedError):
            age_key_check(lambda: iter([head[:-18] + b"A\n" + head[-16:]]), [ALICE])
        with pytest.raises(TruncatedError):
            age_key_check(lambda: iter([head[:-1]]), [ALICE])
        other = sealed_with_passphrase(bytes(MIB), b"open sesame")
        wrong = Passphrase(text="open barley")
        assert age_key_check(lambda: iter(cut(other, 10)), [ALICE, wrong, SESAME]) == (SESAME,)
