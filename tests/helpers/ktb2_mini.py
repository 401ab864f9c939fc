"""
KTB2 written down a second time, from its format page alone: a reader and a writer that share no code with the library.

The reader is the proof that the page suffices. The writer takes all randomness from its caller, so that vectors can be
made again, and makes what no honest writer does, with a header MAC that is right all the same.
"""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

CONTEXT = b"knowtation-backup KTB2 v1 "
X25519, HYBRID = 0x0020, 0x647A


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int = 32) -> bytes:
    return expand(hmac.digest(salt, secret, "sha256"), info, length)


def expand(prk: bytes, info: bytes, length: int) -> bytes:
    block, out = b"", b""
    while len(out) < length:
        block = hmac.digest(prk, block + info + bytes([len(out) // 32 + 1]), "sha256")
        out += block
    return out[:length]


# HPKE, RFC 9180, base mode; X-Wing as its KEM 0x647a


def _extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + ikm, "sha256")


def _expand(suite: bytes, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    return expand(prk, length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info, length)


def _hpke_cipher(kem: int, shared: bytes, info: bytes) -> tuple[AESGCM, bytes]:
    suite = b"HPKE" + kem.to_bytes(2, "big") + b"\x00\x01\x00\x02"
    context = b"\x00" + _extract(suite, b"", b"psk_id_hash", b"") + _extract(suite, b"", b"info_hash", info)
    secret = _extract(suite, shared, b"secret", b"")
    return AESGCM(_expand(suite, secret, b"key", context, 32)), _expand(suite, secret, b"base_nonce", context, 12)


def _dhkem(dh: bytes, enc: bytes, public: bytes) -> bytes:
    suite = b"KEM" + X25519.to_bytes(2, "big")
    return _expand(suite, _extract(suite, b"", b"eae_prk", dh), b"shared_secret", enc + public, 32)


def _xwing(ss_m: bytes, ss_x: bytes, ct_x: bytes, pk_x: bytes) -> bytes:
    return hashlib.sha3_256(ss_m + ss_x + ct_x + pk_x + bytes.fromhex("5c2e2f2f5e5c")).digest()


def _hybrid_halves(seed: bytes) -> tuple[MLKEM768PrivateKey, X25519PrivateKey]:
    expanded = hashlib.shake_256(seed).digest(96)
    return MLKEM768PrivateKey.from_seed_bytes(expanded[:64]), X25519PrivateKey.from_private_bytes(expanded[64:])


def hpke_open(kem: int, private: bytes, sealed: bytes, info: bytes) -> bytes:
    if kem == X25519:
        enc, ciphertext = sealed[:32], sealed[32:]
        key = X25519PrivateKey.from_private_bytes(private)
        dh = key.exchange(X25519PublicKey.from_public_bytes(enc))
        shared = _dhkem(dh, enc, key.public_key().public_bytes_raw())
    else:
        ct_m, ct_x, ciphertext = sealed[:1088], sealed[1088:1120], sealed[1120:]
        mlkem, key = _hybrid_halves(private)
        dh = key.exchange(X25519PublicKey.from_public_bytes(ct_x))
        shared = _xwing(mlkem.decapsulate(ct_m), dh, ct_x, key.public_key().public_bytes_raw())
    cipher, nonce = _hpke_cipher(kem, shared, info)
    return cipher.decrypt(nonce, ciphertext, None)


def hpke_seal(kem: int, public: bytes, ephemeral: bytes, plain: bytes, info: bytes) -> bytes:
    key = X25519PrivateKey.from_private_bytes(ephemeral)
    enc = key.public_key().public_bytes_raw()
    dh = key.exchange(X25519PublicKey.from_public_bytes(public[-32:]))
    if kem == X25519:
        shared = _dhkem(dh, enc, public)
    else:  # the one place whose randomness the caller cannot give
        ss_m, ct_m = MLKEM768PublicKey.from_public_bytes(public[:1184]).encapsulate()
        shared, enc = _xwing(ss_m, dh, enc, public[-32:]), ct_m + enc
    cipher, nonce = _hpke_cipher(kem, shared, info)
    return enc + cipher.encrypt(nonce, plain, None)


def public_of(kem: int, private: bytes) -> bytes:
    if kem == X25519:
        return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    mlkem, key = _hybrid_halves(private)
    return mlkem.public_key().public_bytes_raw() + key.public_key().public_bytes_raw()


def key_id(raw: bytes) -> bytes:
    return hashlib.sha256(b"knowtation-backup encryption key id v1\x00" + raw).digest()[:8]


def public_id(kem: int, public: bytes) -> bytes:
    kind = b"x25519" if kem == X25519 else b"mlkem768x25519"
    return hashlib.sha256(b"knowtation-backup public key id v1\x00" + kind + b"\x00" + public).digest()[:8]


def argon2id(passphrase: str, salt: bytes, memory: int, iterations: int, lanes: int) -> bytes:
    function = Argon2id(salt=salt, length=32, iterations=iterations, lanes=lanes, memory_cost=memory)
    return function.derive(unicodedata.normalize("NFC", passphrase).encode())


# The reader


def open_file(data: bytes, kind: str, secret: bytes | str) -> bytes:
    """Open a file with a ``key``, a ``passphrase``, or a private ``x25519`` or ``hybrid`` key."""
    assert data[:4] == b"KTB2"
    assert data[4:6] == b"\x01\x01"
    assert data[28:32] == bytes(4)
    file_id = data[8:24]
    at = 32
    file_key = b""
    for _ in range(data[7]):
        slot_type, length = data[at], int.from_bytes(data[at + 2 : at + 4], "big")
        file_key = file_key or _open_slot(slot_type, data[at + 4 : at + 4 + length], file_id, kind, secret)
        at += 4 + length
    assert at == 32 + int.from_bytes(data[24:28], "big")
    mac = hmac.digest(hkdf(file_key, file_id, CONTEXT + b"header" + data[4:7]), data[:at], "sha256")
    assert mac == data[at : at + 32]
    cipher = AESGCM(hkdf(file_key, file_id, CONTEXT + b"payload" + data[4:7]))
    stored, step = data[at + 32 :], (1 << data[6]) + 16
    count = max(1, -(-len(stored) // step))
    return b"".join(
        cipher.decrypt(i.to_bytes(11, "big") + bytes([i == count - 1]), stored[i * step : (i + 1) * step], None)
        for i in range(count)
    )


def _open_slot(slot_type: int, body: bytes, file_id: bytes, kind: str, secret: bytes | str) -> bytes:
    if (slot_type, kind) == (1, "key") and isinstance(secret, bytes) and body[:8] == key_id(secret):
        return _unwrap(secret, file_id, b"slot key", body[8:])
    if (slot_type, kind) == (2, "passphrase") and isinstance(secret, str):
        memory, iterations, lanes = (int.from_bytes(body[i : i + 4], "big") for i in (0, 4, 8))
        return _unwrap(argon2id(secret, body[12:28], memory, iterations, lanes), file_id, b"slot passphrase", body[12:])
    kem = {"x25519": X25519, "hybrid": HYBRID}.get(kind, 0)
    ours = slot_type == 3 and body[:6] == kem.to_bytes(2, "big") + b"\x00\x01\x00\x02"
    if ours and isinstance(secret, bytes) and body[6:14] == public_id(kem, public_of(kem, secret)):
        return hpke_open(kem, secret, body[14:], CONTEXT + b"slot recipient" + file_id)
    return b""


def unwrap_key(raw: bytes, file_id: bytes, body: bytes) -> bytes:
    """Return the file key from the body of a slot for a symmetric key."""
    return _unwrap(raw, file_id, b"slot key", body[8:])


def _unwrap(secret: bytes, file_id: bytes, label: bytes, stored: bytes) -> bytes:
    salt, commitment, wrapped = stored[:16], stored[16:48], stored[48:]
    derived = hkdf(secret, file_id + salt, CONTEXT + label, 64)
    return AESGCM(derived[:32]).decrypt(bytes(12), wrapped, None) if derived[32:] == commitment else b""


# The writer


@dataclass
class File:
    """A file to be made, honest unless its fields are changed."""

    file_key: bytes
    file_id: bytes
    exponent: int = 12
    version: int = 1
    cipher: int = 1
    slots: list[bytes] = field(default_factory=list)
    count: int | None = None
    reserved: bytes = bytes(4)

    def header(self) -> bytes:
        slots = b"".join(self.slots)
        counts = bytes([len(self.slots) if self.count is None else self.count])
        head = b"KTB2" + self._parameters + counts + self.file_id + len(slots).to_bytes(4, "big") + self.reserved
        key = hkdf(self.file_key, self.file_id, CONTEXT + b"header" + self._parameters)
        return head + slots + hmac.digest(key, head + slots, "sha256")

    @property
    def _parameters(self) -> bytes:
        return bytes([self.version, self.cipher, self.exponent])

    def chunk(self, number: int, plain: bytes, *, last: bool) -> bytes:
        key = hkdf(self.file_key, self.file_id, CONTEXT + b"payload" + self._parameters)
        return AESGCM(key).encrypt(number.to_bytes(11, "big") + bytes([last]), plain, None)

    def chunks(self, plain: bytes) -> list[bytes]:
        size = 1 << self.exponent
        cut = [plain[i : i + size] for i in range(0, len(plain), size)] or [b""]
        return [self.chunk(i, part, last=i == len(cut) - 1) for i, part in enumerate(cut)]

    def seal(self, plain: bytes) -> bytes:
        return self.header() + b"".join(self.chunks(plain))

    def add_key(self, raw: bytes, salt: bytes) -> None:
        self._add(1, key_id(raw) + salt + self._wrap(raw, salt, b"slot key"))

    def add_passphrase(self, text: str, salt: bytes, memory: int, iterations: int, lanes: int) -> None:
        secret = argon2id(text, salt, memory, iterations, lanes)
        costs = b"".join(number.to_bytes(4, "big") for number in (memory, iterations, lanes))
        self._add(2, costs + salt + self._wrap(secret, salt, b"slot passphrase"))

    def add_recipient(self, kem: int, public: bytes, ephemeral: bytes) -> None:
        sealed = hpke_seal(kem, public, ephemeral, self.file_key, CONTEXT + b"slot recipient" + self.file_id)
        self._add(3, kem.to_bytes(2, "big") + b"\x00\x01\x00\x02" + public_id(kem, public) + sealed)

    def add_unknown(self, slot_type: int, body: bytes) -> None:
        self._add(slot_type, body)

    def _add(self, slot_type: int, body: bytes) -> None:
        self.slots.append(bytes([slot_type, 0]) + len(body).to_bytes(2, "big") + body)

    def _wrap(self, secret: bytes, salt: bytes, label: bytes) -> bytes:
        derived = hkdf(secret, self.file_id + salt, CONTEXT + label, 64)
        return derived[32:] + AESGCM(derived[:32]).encrypt(bytes(12), self.file_key, None)
