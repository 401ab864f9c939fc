"""AgentVault's Merkle root and wrapped keys are those of its own code."""

import hashlib

import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from knowtation_backup.codecs.agentvault import WrappedKey, leaf_hash, merkle_root, unwrap_key, wrap_key, wrapping_key
from knowtation_backup.errors import ConfigurationError, SignatureError, TamperedError

SEED = bytes(range(32))
KEY = bytes(range(100, 132))


def leaves(**entries: str) -> dict[str, str]:
    return {path: leaf_hash(path, content.encode()) for path, content in entries.items()}


TWO = leaves(**{"config.json": '{"a":1}', "canister-state.json": '{"b":2}'})


class TestMerkleRoot:
    def test_of_two_entries_is_that_of_the_vector(self) -> None:
        assert merkle_root(TWO) == "d7e3ad5107d716ed06f78ef36df84739efb50fdcf0e0fb2acc9cbcb5eb66af32"

    def test_of_three_entries_moves_the_last_up(self) -> None:
        root = "9a0fb2a8820a9eee55859008066a5160d6a9fe1a708a2b4117fcb9a11da67cf4"
        assert merkle_root(TWO | leaves(**{"z.txt": "z"})) == root

    def test_of_one_entry_is_its_leaf(self) -> None:
        assert merkle_root(leaves(a="x")) == hashlib.sha256(b"ax").hexdigest()

    def test_of_nothing_is_the_hash_of_nothing(self) -> None:
        assert merkle_root({}) == hashlib.sha256(b"").hexdigest()

    def test_does_not_depend_on_the_order_of_entries(self) -> None:
        assert merkle_root(dict(reversed(TWO.items()))) == merkle_root(TWO)

    @pytest.mark.parametrize("leaf", ["", "0" * 63, "G" * 64, "A" * 64])
    def test_refuses_what_is_no_hash(self, leaf: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            merkle_root({"a": leaf})
        assert caught.value.kind == "bad_leaf"


class TestWrappedKeys:
    def test_the_derived_key_is_that_of_the_vector(self) -> None:
        assert wrapping_key(SEED).hex() == "f4585712108f9ad7499c9a4fc59bcb912347b80168449e50adc620dd468bec0e"

    def test_a_wrapped_key_comes_back(self) -> None:
        wrapped = wrap_key(KEY, SEED)
        assert wrapped.public_key.hex() == "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
        assert [len(part) for part in (wrapped.ciphertext, wrapped.iv, wrapped.tag)] == [32, 12, 16]
        assert unwrap_key(wrapped, SEED) == KEY
        assert unwrap_key(wrapped, SEED, expected_public_key=wrapped.public_key) == KEY

    @pytest.mark.parametrize("name", ["ciphertext", "iv", "tag", "signature"])
    def test_every_part_is_signed(self, name: str) -> None:
        wrapped = wrap_key(KEY, SEED)
        part = bytearray(getattr(wrapped, name))
        part[0] ^= 1
        with pytest.raises(SignatureError):
            unwrap_key(attrs.evolve(wrapped, **{name: bytes(part)}), SEED)

    def test_another_signer_is_refused(self) -> None:
        with pytest.raises(SignatureError, match="expected"):
            unwrap_key(wrap_key(KEY, bytes(32)), SEED)
        with pytest.raises(SignatureError, match="expected"):
            unwrap_key(wrap_key(KEY, SEED), SEED, expected_public_key=bytes(32))

    def test_another_seed_does_not_open_it(self) -> None:
        wrapped = wrap_key(KEY, SEED)
        with pytest.raises(TamperedError):
            unwrap_key(wrapped, bytes(32), expected_public_key=wrapped.public_key)

    def test_parts_of_other_lengths_do_not_open(self) -> None:
        signing = Ed25519PrivateKey.from_private_bytes(SEED)
        wrapped = WrappedKey(
            ciphertext=b"",
            iv=b"",
            tag=b"",
            signature=signing.sign(b""),
            public_key=signing.public_key().public_bytes_raw(),
        )
        with pytest.raises(TamperedError):
            unwrap_key(wrapped, SEED)

    @pytest.mark.parametrize(("key", "seed"), [(KEY[1:], SEED), (KEY, SEED[1:])])
    def test_lengths_are_checked(self, key: bytes, seed: bytes) -> None:
        with pytest.raises(ConfigurationError) as caught:
            wrap_key(key, seed)
        assert caught.value.kind == "bad_key_length"
