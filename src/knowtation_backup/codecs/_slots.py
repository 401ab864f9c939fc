"""
The slots of a KTB2 file: how a file key is wrapped for a key, a passphrase or a recipient, and unwrapped again.

Bodies are described on the format page, ``docs/reference/ktb2.md``. Everything here is handed bytes that nobody has
authenticated yet: it is bounded in memory and time, and raises `BackupError` only.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import attrs
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from .._checks import between
from ..errors import BackupError, ConfigurationError, DecryptionError, NoMatchingKeyError, TamperedError
from ._ktb2_header import CONTEXT, FileKey, Header, Slot, derive
from .hpke import encapsulated_bytes, open_sealed, seal_to
from .keys import EncryptionKey, KeyKind, Passphrase, PrivateKey, PublicKey, unsupported

__all__ = [
    "MAX_PASSPHRASE_SLOTS",
    "Argon2Parameters",
    "OpeningKey",
    "SealingKey",
    "SlotInfo",
    "describe_slot",
    "make_slot",
    "unwrap",
]

SealingKey = EncryptionKey | Passphrase | PublicKey
"""What a file can be sealed to."""

OpeningKey = EncryptionKey | Passphrase | PrivateKey
"""What can open a file."""

MAX_PASSPHRASE_SLOTS: Final = 4
"""In one file: each costs a reader with another passphrase the whole of Argon2id."""

_KEY: Final = 1
_PASSPHRASE: Final = 2
_RECIPIENT: Final = 3

_ID_BYTES: Final = 8
_SALT_BYTES: Final = 16
_SECRET_BYTES: Final = 32
_COMMITMENT_BYTES: Final = 32
_WRAPPED_BYTES: Final = 32 + 16
_NONCE: Final = bytes(12)
"""Each wrapping key seals once: a random salt goes into its derivation."""

_KEY_BODY_BYTES: Final = _ID_BYTES + _SALT_BYTES + _COMMITMENT_BYTES + _WRAPPED_BYTES
_COSTS_BYTES: Final = 12
_SUITE_NAME_BYTES: Final = 6
_PASSPHRASE_BODY_BYTES: Final = _COSTS_BYTES + _SALT_BYTES + _COMMITMENT_BYTES + _WRAPPED_BYTES

_MIN_MEMORY_KIB: Final = 19 * 1024
_MIN_ITERATIONS: Final = 2
_MAX_MEMORY_KIB: Final = 1024 * 1024
_MAX_ITERATIONS: Final = 64
_MAX_LANES: Final = 16
_MAX_WORK_KIB: Final = 4 * 1024 * 1024


@attrs.frozen(kw_only=True)
class Argon2Parameters:
    """
    What it costs to try one passphrase: the second recommendation of RFC 9106 unless said otherwise.

    Raises:
        ConfigurationError: Below the floor of OWASP (19 MiB, 2 iterations), or more than a reader would spend.
    """

    memory_kib: int = attrs.field(default=64 * 1024, validator=between(_MIN_MEMORY_KIB, _MAX_MEMORY_KIB))
    iterations: int = attrs.field(default=3, validator=between(_MIN_ITERATIONS, _MAX_ITERATIONS))
    lanes: int = attrs.field(default=4, validator=between(1, _MAX_LANES))

    def __attrs_post_init__(self) -> None:
        if self.memory_kib * self.iterations > _MAX_WORK_KIB:
            message = f"{self.iterations} iterations over {self.memory_kib} KiB are more than a reader would spend"
            hint = f"memory times iterations may be {_MAX_WORK_KIB} KiB"
            raise ConfigurationError(message, kind="bad_option", hint=hint)


@attrs.frozen(kw_only=True)
class SlotInfo:
    """One way into a sealed file, as its header says; not authenticated."""

    kind: str
    """``key``, ``passphrase``, ``x25519``, ``mlkem768x25519``, or ``unknown`` to this release."""

    key_id: str | None = None
    """`None` for passphrases and what is unknown."""

    argon2: tuple[int, int, int] | None = None
    """Of passphrases: memory in KiB, iterations, lanes."""


@attrs.frozen
class _Suite:
    """One HPKE suite: what it is called in files, and how long its bodies are."""

    kind: KeyKind
    kem_id: int

    @property
    def name(self) -> bytes:
        return b"".join(number.to_bytes(2, "big") for number in (self.kem_id, 0x0001, 0x0002))

    @property
    def head_bytes(self) -> int:
        return _SUITE_NAME_BYTES + _ID_BYTES

    @property
    def body_bytes(self) -> int:
        return self.head_bytes + encapsulated_bytes(self.kind) + _WRAPPED_BYTES


_SUITES: Final = {
    suite.kind: suite
    for suite in (
        _Suite(KeyKind.X25519, 0x0020),
        _Suite(KeyKind.MLKEM768_X25519, 0x647A),
    )
}
_SUITES_BY_NAME: Final = {suite.name: suite for suite in _SUITES.values()}


def make_slot(key: SealingKey, file_key: FileKey, file_id: bytes, costs: Argon2Parameters) -> Slot:
    """Wrap a file key."""
    match key:
        case EncryptionKey():
            salt = secrets.token_bytes(_SALT_BYTES)
            wrapped = _wrap(_key_secret(key, file_id, salt), file_key)
            return Slot(_KEY, bytes.fromhex(key.key_id) + salt + wrapped)
        case Passphrase():
            salt = secrets.token_bytes(_SALT_BYTES)
            numbers = (costs.memory_kib, costs.iterations, costs.lanes)
            wrapped = _wrap(_passphrase_secret(key, file_id, salt, numbers), file_key)
            head = b"".join(number.to_bytes(4, "big") for number in numbers)
            return Slot(_PASSPHRASE, head + salt + wrapped)
        case PublicKey():
            suite = _SUITES[key.kind]
            sealed = seal_to(key, file_key.raw, info=_recipient_info(file_id))
            return Slot(_RECIPIENT, suite.name + bytes.fromhex(key.key_id) + sealed)


def _key_secret(key: EncryptionKey, file_id: bytes, salt: bytes) -> bytes:
    return derive(key.raw, salt=file_id + salt, info=b"slot key", size_bytes=_SECRET_BYTES + _COMMITMENT_BYTES)


def _passphrase_secret(key: Passphrase, file_id: bytes, salt: bytes, numbers: tuple[int, int, int]) -> bytes:
    secret = _argon2id(key.normalized, salt, *numbers)
    size_bytes = _SECRET_BYTES + _COMMITMENT_BYTES
    return derive(secret, salt=file_id + salt, info=b"slot passphrase", size_bytes=size_bytes)


def _argon2id(password: bytes, salt: bytes, memory_kib: int, iterations: int, lanes: int) -> bytes:
    try:
        function = Argon2id(salt=salt, length=_SECRET_BYTES, iterations=iterations, lanes=lanes, memory_cost=memory_kib)
        return function.derive(password)
    except MemoryError:
        # Raised outside, so that no library's error is chained to it.
        message = f"there is no memory for the {memory_kib} KiB that this passphrase's parameters ask for"
        refusal: BackupError = DecryptionError(
            message, kind="excessive_parameters", hint="use a machine with more memory"
        )
    except UnsupportedAlgorithm:
        refusal = unsupported("Argon2id")
    raise refusal


def _recipient_info(file_id: bytes) -> bytes:
    return CONTEXT + b"slot recipient" + file_id


def _wrap(derived: bytes, file_key: FileKey) -> bytes:
    wrapping_key, commitment = derived[:_SECRET_BYTES], derived[_SECRET_BYTES:]
    return commitment + AESGCM(wrapping_key).encrypt(_NONCE, file_key.raw, None)


def _unwrap(derived: bytes, stored: bytes) -> FileKey | None:
    """
    Return what *stored* (commitment, then ciphertext) holds; `None` when it belongs to another secret.

    Raises:
        TamperedError: It belongs to this secret and was changed.
    """
    wrapping_key, commitment = derived[:_SECRET_BYTES], derived[_SECRET_BYTES:]
    if not hmac.compare_digest(commitment, stored[:_COMMITMENT_BYTES]):
        return None
    try:
        return FileKey(AESGCM(wrapping_key).decrypt(_NONCE, stored[_COMMITMENT_BYTES:], None))
    except InvalidTag as error:
        raise _changed("the wrapped file key of the slot that fits does not open") from error


def _changed(what: str) -> TamperedError:
    message = f"the header of this KTB2 file was changed: {what}"
    return TamperedError(message, kind="header_tampered", hint="use another copy")


def describe_slot(slot: Slot) -> SlotInfo:
    """
    Say what a slot is for.

    Raises:
        TamperedError: It is not as long as its type.
    """
    body = slot.body
    if slot.type == _KEY:
        _check_length(slot, _KEY_BODY_BYTES)
        return SlotInfo(kind="key", key_id=body[:_ID_BYTES].hex())
    if slot.type == _PASSPHRASE:
        _check_length(slot, _PASSPHRASE_BODY_BYTES)
        return SlotInfo(kind="passphrase", argon2=_costs(slot))
    suite = _SUITES_BY_NAME.get(body[:_SUITE_NAME_BYTES]) if slot.type == _RECIPIENT else None
    if suite is None:
        return SlotInfo(kind="unknown")
    _check_length(slot, suite.body_bytes)
    return SlotInfo(kind=str(suite.kind), key_id=body[_SUITE_NAME_BYTES : suite.head_bytes].hex())


def _check_length(slot: Slot, wanted: int) -> None:
    if len(slot.body) != wanted:
        message = f"the header of this KTB2 file contradicts itself: a slot of {len(slot.body)} bytes, not {wanted}"
        raise TamperedError(message, kind="bad_header", hint="use another copy")


def _costs(slot: Slot) -> tuple[int, int, int]:
    memory, iterations, lanes = (int.from_bytes(slot.body[start : start + 4], "big") for start in (0, 4, 8))
    return memory, iterations, lanes


def unwrap(header: Header, keys: Sequence[OpeningKey]) -> tuple[FileKey, OpeningKey]:
    """
    Return the file key and which of *keys* gave it, with the header authenticated.

    Raises:
        NoMatchingKeyError: None of the keys fits.
        TamperedError: One fits, and the header is not as it was written.
        DecryptionError: A passphrase slot asks for too little or too much.
    """
    infos = [describe_slot(slot) for slot in header.slots]
    for file_key, key in _candidates(header, infos, keys):
        header.check_mac(file_key)
        return file_key, key
    if any(True for _ in _mislabelled(header, infos, keys)):
        raise _changed("a slot opens with a key that is not the one it names")
    raise _no_key(infos, keys)


def _candidates(
    header: Header, infos: Sequence[SlotInfo], keys: Iterable[OpeningKey]
) -> Iterator[tuple[FileKey, OpeningKey]]:
    """Unwrap what belongs to the keys; passphrases last, because they cost time."""
    slots = list(zip(header.slots, infos, strict=True))
    for key in keys:
        if isinstance(key, Passphrase):
            continue
        kind, key_id = _label(key)
        for slot, info in slots:
            if (info.kind, info.key_id) == (kind, key_id):
                file_key = _open_slot(slot, key, header.file_id)
                if file_key is None:
                    raise _changed(f"the slot of key {key_id} does not open with it")
                yield file_key, key
    passphrases = [key for key in keys if isinstance(key, Passphrase)]
    locked = [slot for slot, info in slots if info.kind == "passphrase"]
    if passphrases and len(locked) > MAX_PASSPHRASE_SLOTS:
        message = f"this KTB2 file has {len(locked)} passphrase slots, more than {MAX_PASSPHRASE_SLOTS}"
        raise DecryptionError(message, kind="excessive_parameters", hint="it would take too long to try them all")
    for key in passphrases:
        for slot in locked:
            _check_costs(*_costs(slot))
            file_key = _open_slot(slot, key, header.file_id)
            if file_key is not None:
                yield file_key, key


def _label(key: EncryptionKey | PrivateKey) -> tuple[str, str]:
    return ("key" if isinstance(key, EncryptionKey) else str(key.kind)), key.key_id


def _mislabelled(header: Header, infos: Sequence[SlotInfo], keys: Iterable[OpeningKey]) -> Iterator[FileKey]:
    """Unwrap what opens under another key's id: a genuine file has no such slot."""
    for key in keys:
        if isinstance(key, Passphrase):
            continue
        kind, _ = _label(key)
        for slot, info in zip(header.slots, infos, strict=True):
            file_key = _open_slot(slot, key, header.file_id) if info.kind == kind else None
            if file_key is not None:
                yield file_key


def _open_slot(slot: Slot, key: OpeningKey, file_id: bytes) -> FileKey | None:
    """Return the file key, `None` when the slot belongs to another key. The slot is of the key's own kind."""
    match key:
        case EncryptionKey():
            salt = slot.body[_ID_BYTES : _ID_BYTES + _SALT_BYTES]
            return _unwrap(_key_secret(key, file_id, salt), slot.body[_ID_BYTES + _SALT_BYTES :])
        case Passphrase():
            salt = slot.body[_COSTS_BYTES : _COSTS_BYTES + _SALT_BYTES]
            derived = _passphrase_secret(key, file_id, salt, _costs(slot))
            return _unwrap(derived, slot.body[_COSTS_BYTES + _SALT_BYTES :])
        case PrivateKey():
            suite = _SUITES[key.kind]
            raw = open_sealed(key, slot.body[suite.head_bytes :], info=_recipient_info(file_id))
            return None if raw is None else FileKey(raw)


def _check_costs(memory_kib: int, iterations: int, lanes: int) -> None:
    stated = f"{memory_kib} KiB, {iterations} iterations and {lanes} lanes"
    if memory_kib < _MIN_MEMORY_KIB or iterations < _MIN_ITERATIONS or lanes < 1:
        message = f"a passphrase slot of this KTB2 file has weak Argon2id parameters ({stated})"
        raise DecryptionError(message, kind="weak_parameters", hint="no genuine file has them; use another copy")
    work = memory_kib * iterations
    if memory_kib > _MAX_MEMORY_KIB or iterations > _MAX_ITERATIONS or lanes > _MAX_LANES or work > _MAX_WORK_KIB:
        message = f"a passphrase slot of this KTB2 file asks for {stated}, more than this release spends"
        raise DecryptionError(message, kind="excessive_parameters", hint="use another copy, or another key")


def _no_key(infos: Sequence[SlotInfo], keys: Sequence[OpeningKey]) -> NoMatchingKeyError:
    wanted = tuple(info.key_id for info in infos if info.key_id is not None)
    given = tuple(key.key_id for key in keys if not isinstance(key, Passphrase))
    ways = [f"{info.kind} {info.key_id}" if info.key_id else info.kind for info in infos]
    had = [*given, *("a passphrase" for key in keys if isinstance(key, Passphrase))]
    message = f"this KTB2 file opens with {', '.join(ways)}; at hand: {', '.join(had) or 'no key'}"
    hint = "use another key" if keys else "this codec only seals; pass open_with="
    if len(given) < len(keys) and any(info.kind == "passphrase" for info in infos):
        hint = "another passphrase, or the header was changed"
    return NoMatchingKeyError(message, hint=hint, wanted=wanted, given=given)
