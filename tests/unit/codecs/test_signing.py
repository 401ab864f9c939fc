"""Signing keys and signatures: secret, deterministic, and bound to every byte of a manifest."""

import datetime as dt
import json
import os
import pickle
import threading
import traceback
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from knowtation_backup.codecs.signing import (
    SigningKey,
    check_content,
    check_manifest,
    sign_content,
    sign_manifest,
    signature_problem,
)
from knowtation_backup.errors import (
    BlobNotFoundError,
    ConfigurationError,
    SignatureError,
    SinkError,
    UnsupportedFormatError,
)
from knowtation_backup.model.details import ArchiveDetails
from knowtation_backup.model.signatures import (
    _SMALL_ORDER,
    SIGNATURE_CONTEXT,
    SignatureFile,
    SignaturePolicy,
    VerifyKey,
)
from knowtation_backup.model.statements import ContentStatement

GOLDEN = sorted((Path(__file__).parents[2] / "golden" / "signatures").glob("*.json"))
SEED = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
PUBLIC = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
"""RFC 8032, 7.1, test 1."""
KEY = SigningKey.from_hex(SEED)
OTHER = SigningKey(seed=bytes(range(32)))
MANIFEST = b'{"format":"knowtation-backup-archive"}\n'
TRUSTING = SignaturePolicy(trusted=(KEY.verify_key,))
ALGORITHM_WORD = b'"algorithm":"ed25519"'


def codes(manifest: bytes, signatures: bytes | None, policy: SignaturePolicy = TRUSTING) -> list[str]:
    return [finding.code for finding in check_manifest(manifest, signatures, policy)]


class TestKeys:
    def test_a_seed_has_its_documented_public_key_and_signature(self) -> None:
        assert str(KEY.verify_key) == f"ed25519:{PUBLIC}"
        expected = (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        )
        assert KEY.sign(b"").hex() == expected

    def test_keys_come_from_hexadecimal_digits_and_pem(self) -> None:
        pem = (  # RFC 8410, 10.3
            "-----BEGIN PRIVATE KEY-----\n"
            "MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n"
            "-----END PRIVATE KEY-----\n"
        )
        public = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE="
        assert SigningKey.from_pem(pem).verify_key.pem.splitlines()[1] == public
        assert SigningKey.from_hex(f" {SEED.upper()}\n") == KEY
        assert SigningKey.generate() != SigningKey.generate()

    @pytest.mark.parametrize("text", ["", SEED[:-1], SEED + "0", SEED[:-1] + "g", "\u0661" * 64, "0x" + SEED])
    def test_other_texts_are_refused_without_being_quoted(self, text: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            SigningKey.from_hex(text)
        assert caught.value.kind == "bad_signing_key"
        assert not text or text not in str(caught.value)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
            KEY.verify_key.pem,
            "\ud800",
        ],
        ids=["empty", "damaged", "x25519", "public", "surrogate"],
    )
    def test_other_pem_is_refused(self, text: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            SigningKey.from_pem(text)
        assert caught.value.kind == "bad_signing_key"
        assert caught.value.__context__ is None, "a library's message might quote the key"

    @pytest.mark.parametrize("seed", [b"", bytes(31), SEED, None])
    def test_a_seed_has_32_bytes(self, seed: Any) -> None:
        with pytest.raises(ConfigurationError, match="32 bytes"):
            SigningKey(seed=seed)

    def test_the_secret_is_nowhere_to_be_seen(self) -> None:
        secrets = {SEED, repr(bytes.fromhex(SEED))}
        assert not any(secret in text for secret in secrets for text in (repr(KEY), str(KEY), repr([KEY])))
        assert KEY.key_id in repr(KEY)
        assert KEY.key_id == KEY.verify_key.key_id


class TestKeyFiles:
    def test_one_is_made_on_demand_and_found_again(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "backup-signing.key"
        key = SigningKey.load_or_create(path)
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert path.read_text() == f"{key.seed.hex()}\n"
        assert SigningKey.load_or_create(path) == SigningKey.load(path) == key
        assert [item.name for item in path.parent.iterdir()] == [path.name]

    def test_many_that_make_one_at_once_get_the_same_key(self, tmp_path: Path) -> None:
        barrier = threading.Barrier(8)
        keys: list[SigningKey] = []

        def make() -> None:
            barrier.wait()
            keys.append(SigningKey.load_or_create(tmp_path / "a.key"))

        threads = [threading.Thread(target=make) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(keys) == 8
        assert len({key.seed for key in keys}) == 1

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601, 0o644, 0o777])
    def test_a_file_open_to_others_is_refused(self, tmp_path: Path, mode: int) -> None:
        path = tmp_path / "a.key"
        path.write_text(SEED)
        path.chmod(mode)
        for read in (SigningKey.load, SigningKey.load_or_create):
            with pytest.raises(ConfigurationError, match=f"{mode:04o}") as caught:
                read(path)
            assert caught.value.kind == "key_file_exposed"
            assert SEED not in "".join(traceback.format_exception(caught.value))

    @pytest.mark.parametrize("content", [b"", b"\xff" * 64, SEED.encode()[:-1], b"x" * 100_000])
    def test_a_file_without_a_key_is_refused_and_left_alone(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "a.key"
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(ConfigurationError) as caught:
            SigningKey.load_or_create(path)
        assert caught.value.kind in {"bad_signing_key", "bad_key_text"}
        assert path.read_bytes() == content

    def test_what_is_no_file_is_refused(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe", 0o600)
        for place in (tmp_path / "pipe", tmp_path):
            with pytest.raises(ConfigurationError, match="no regular file"):
                SigningKey.load_or_create(place)
        with pytest.raises(BlobNotFoundError):
            SigningKey.load(tmp_path / "nothing")

    def test_where_nothing_can_be_written_the_error_is_ours(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(SinkError) as caught:
            SigningKey.load_or_create(tmp_path / "file" / "a.key")
        assert caught.value.kind == "bad_path"

    def test_pem_files_are_read_also_encrypted_ones(self, tmp_path: Path) -> None:
        plain, sealed = tmp_path / "plain.pem", tmp_path / "sealed.pem"
        plain.write_bytes(pem(NoEncryption()))
        sealed.write_bytes(pem(BestAvailableEncryption(b"swordfish")))
        for path in (plain, sealed):
            path.chmod(0o600)
        assert SigningKey.load(plain) == SigningKey.load(sealed, password="swordfish") == KEY
        for password in (None, "cod"):
            with pytest.raises(ConfigurationError, match="password") as caught:
                SigningKey.load(sealed, password=password)
            assert "cod" not in str(caught.value)


def pem(encryption: KeySerializationEncryption) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(KEY.seed).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


class TestSignatures:
    def test_a_signed_manifest_is_accepted(self) -> None:
        assert codes(MANIFEST, sign_manifest(MANIFEST, [KEY])) == []

    def test_the_same_manifest_and_keys_give_the_same_bytes_in_any_order(self) -> None:
        assert sign_manifest(MANIFEST, [KEY, OTHER]) == sign_manifest(MANIFEST, iter([OTHER, KEY, OTHER]))
        assert len(SignatureFile.from_bytes(sign_manifest(MANIFEST, [KEY, OTHER, KEY])).signatures) == 2

    def test_one_trusted_signature_of_several_is_enough(self) -> None:
        both = sign_manifest(MANIFEST, [KEY, OTHER])
        assert codes(MANIFEST, both) == []
        assert codes(MANIFEST, both, SignaturePolicy(trusted=(OTHER.verify_key,))) == []
        assert codes(MANIFEST, sign_manifest(MANIFEST, [OTHER])) == ["unknown_signer"]

    def test_a_signature_that_does_not_fit_is_refused_whoever_made_the_others(self) -> None:
        both = sign_manifest(MANIFEST, [KEY, OTHER])
        wrong = both.replace(OTHER.sign(SIGNATURE_CONTEXT + MANIFEST).hex().encode(), b"00" * 64)
        assert codes(MANIFEST, wrong) == ["bad_signature"]
        assert codes(MANIFEST, wrong, SignaturePolicy()) == ["bad_signature"]

    @pytest.mark.parametrize(
        ("unsigned", "expected"),
        [(None, ["unsigned"]), ("refuse", ["unsigned"]), ("report", ["unsigned"]), ("allow", [])],
    )
    def test_the_policy_says_what_is_made_of_unsigned_archives(self, unsigned: str | None, expected: list[str]) -> None:
        policy = SignaturePolicy(trusted=(KEY.verify_key,), unsigned=unsigned)
        assert codes(MANIFEST, None, policy) == expected
        assert codes(MANIFEST, sign_manifest(MANIFEST, [OTHER]), policy) == ["unknown_signer"]
        empty = SignatureFile(signatures=()).to_bytes()
        assert codes(MANIFEST, empty, policy) == ["unknown_signer"], "an empty list is no way around"

    def test_without_trusted_keys_everything_that_fits_is_accepted(self) -> None:
        for signatures in (None, sign_manifest(MANIFEST, [OTHER])):
            assert codes(MANIFEST, signatures, SignaturePolicy()) == []
        assert codes(MANIFEST, None, SignaturePolicy(unsigned="refuse")) == ["unsigned"]
        assert codes(MANIFEST + b" ", sign_manifest(MANIFEST, [OTHER]), SignaturePolicy()) == ["bad_signature"]

    def test_a_signature_made_for_something_else_does_not_fit(self) -> None:
        bare = sign_manifest(MANIFEST, [KEY]).replace(
            KEY.sign(SIGNATURE_CONTEXT + MANIFEST).hex().encode(), KEY.sign(MANIFEST).hex().encode()
        )
        assert codes(MANIFEST, bare) == ["bad_signature"]

    def test_other_algorithms_are_for_newer_releases(self) -> None:
        other = sign_manifest(MANIFEST, [OTHER]).replace(b"ed25519", b"ed99999")
        assert codes(MANIFEST, other) == ["unknown_signer"]
        assert codes(MANIFEST, other, SignaturePolicy()) == []
        both = sign_manifest(MANIFEST, [OTHER, KEY]).replace(ALGORITHM_WORD, b'"algorithm":"ed99999"', 1)
        assert len(SignatureFile.from_bytes(both).signatures) == 2
        assert codes(MANIFEST, both) == ([] if KEY.verify_key.raw > OTHER.verify_key.raw else ["unknown_signer"])

    def test_every_flipped_bit_of_manifest_or_signature_is_refused(self) -> None:
        signatures = sign_manifest(MANIFEST, [KEY])
        for position in range(len(MANIFEST) * 8):
            assert codes(flipped(MANIFEST, position), signatures) == ["bad_signature"]
        for position in range(len(signatures) * 8):
            assert codes(MANIFEST, flipped(signatures, position)) in (
                ["bad_signature"],
                ["unknown_signer"],  # the name of the algorithm, or the public key
                ["unsupported_format"],  # the version
            ), position

    def test_every_cut_of_manifest_or_signature_is_refused(self) -> None:
        signatures = sign_manifest(MANIFEST, [KEY])
        assert {tuple(codes(MANIFEST[:size], signatures)) for size in range(len(MANIFEST))} == {("bad_signature",)}
        assert {tuple(codes(MANIFEST, signatures[:size])) for size in range(len(signatures))} == {("bad_signature",)}

    def test_without_a_key_nothing_is_signed(self) -> None:
        with pytest.raises(ConfigurationError, match="no key"):
            sign_manifest(MANIFEST, [])

    def test_problems_survive_pickling(self) -> None:
        problem = signature_problem(MANIFEST, sign_manifest(MANIFEST, [OTHER]), TRUSTING)
        assert problem is not None
        again = pickle.loads(pickle.dumps(problem))  # noqa: S301 - our own bytes
        assert (again.kind, str(again)) == ("unknown_signer", str(problem))


def flipped(data: bytes, position: int) -> bytes:
    changed = bytearray(data)
    changed[position // 8] ^= 1 << position % 8
    return bytes(changed)


@pytest.mark.parametrize("raw", sorted(_SMALL_ORDER), ids=lambda raw: raw.hex()[:8])
def test_points_that_fit_everybodys_signatures_are_no_keys(raw: bytes) -> None:
    """Anybody can find a message that such a 'key' has signed, which is why none of them may be trusted."""
    forged = bytes([1]) + bytes(63)  # the neutral element, and zero
    with pytest.raises(ConfigurationError, match="anybody"):
        VerifyKey(raw=raw)
    with pytest.raises(ConfigurationError, match="anybody"):
        VerifyKey(raw=raw[:-1] + bytes([raw[-1] | 0x80]))
    if raw[1:] == b"\xff" * 30 + b"\x7f" and raw[0] >= 0xED:
        return  # other spellings of 0 and 1, which not every library reads
    assert any(accepts(raw, forged, str(number).encode()) for number in range(200))


def accepts(raw: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(raw).verify(signature, message)
    except InvalidSignature:
        return False
    return True


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_vectors(path: Path) -> None:
    vector: dict[str, Any] = json.loads(path.read_text())
    signatures = vector["signatures"]
    policy = SignaturePolicy(trusted=tuple(vector["trusted"]), unsigned=vector.get("unsigned"))
    found = codes(bytes.fromhex(vector["manifest"]), None if signatures is None else signatures.encode(), policy)
    assert found == ([vector["outcome"]] if vector["outcome"] != "accepted" else [])
    if "seeds" in vector:
        keys = [SigningKey.from_hex(seed) for seed in vector["seeds"]]
        assert sign_manifest(bytes.fromhex(vector["manifest"]), keys).decode() == signatures


def test_there_are_golden_vectors() -> None:
    assert len(GOLDEN) >= 10


class TestStatements:
    STATEMENT = ContentStatement(
        artifact="operator-full-export-20260408T153022Z.json.ktb2",
        source_id="hub.example",
        taken_at=dt.datetime(2026, 4, 8, 15, 30, 22, tzinfo=dt.UTC),
        content_root="ab" * 32,
    )

    def test_a_signed_statement_is_read_back_by_whoever_trusts_the_signer(self) -> None:
        data = sign_content(self.STATEMENT, [KEY])
        assert check_content(data, KEY.verify_key) == check_content(data, [str(KEY.verify_key)]) == self.STATEMENT
        assert sign_content(self.STATEMENT, [KEY]) == data
        with pytest.raises(SignatureError) as caught:
            check_content(data, OTHER.verify_key)
        assert caught.value.kind == "unknown_signer"
        with pytest.raises(ConfigurationError, match="anybody"):
            check_content(data, ())

    def test_every_flipped_bit_and_every_cut_is_refused(self) -> None:
        data = sign_content(self.STATEMENT, [KEY])
        damaged = [
            *(flipped(data, position) for position in range(8 * len(data))),
            *(data[:n] for n in range(len(data))),
        ]
        for other in [*damaged, data + b"\n", b"x" * 100_000]:
            with pytest.raises((SignatureError, UnsupportedFormatError)):
                check_content(other, KEY.verify_key)

    def test_a_signature_over_a_manifest_is_none_over_a_statement(self) -> None:
        text = self.STATEMENT.to_bytes()
        with pytest.raises(SignatureError):
            check_content(text + sign_manifest(text, [KEY]), KEY.verify_key)

    @pytest.mark.parametrize(
        "text",
        [
            b'{"format":"knowtation-backup-archive"}\n',
            b"[]\n",
            b"\xff\n",
            STATEMENT.to_bytes().replace(b"ab", b"AB"),
            STATEMENT.to_bytes().replace(b",", b", "),
            STATEMENT.to_bytes().replace(b"2026-04", b"2026-99"),
        ],
    )
    def test_what_is_signed_and_no_statement_is_refused(self, text: bytes) -> None:
        with pytest.raises(SignatureError, match="cannot be read"):
            ContentStatement.from_bytes(text)

    def test_newer_versions_are_named(self) -> None:
        with pytest.raises(UnsupportedFormatError):
            ContentStatement.from_bytes(self.STATEMENT.to_bytes().replace(b'version":1', b'version":2'))

    def test_it_comes_from_details_that_hold_a_root(self) -> None:
        details = ArchiveDetails(
            artifact=self.STATEMENT.artifact,
            kind="knowtation-operator-full-export",
            source_id="hub.example",
            taken_at=self.STATEMENT.taken_at,
            complete=True,
            counts={},
            payload_bytes=0,
            payload_sha256="",
            capture={"content_root": "ab" * 32},
        )
        assert ContentStatement.of(details) == self.STATEMENT
        with pytest.raises(ConfigurationError, match="no content root"):
            ContentStatement.of(attrs.evolve(details, capture={}))
