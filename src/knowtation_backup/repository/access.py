"""
Access files: how a recipient comes to the secrets of a repository.

Each is a KTB2 file with the secrets as canonical JSON, and one of them is written for each recipient, so that one can
be removed without the keys of the others. A store may hold anything under such a name: what is read is bounded, and
secrets are taken only if the repository's id follows from them.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, Final

import attrs

from ..codecs.keys import EncryptionKey, Passphrase, PrivateKey, PublicKey
from ..codecs.ktb2 import Argon2Parameters, Ktb2Codec, Ktb2Description, OpeningKey, SealingKey, describe
from ..contracts import ArchiveSink
from ..errors import (
    BackupError,
    BlobExistsError,
    BlobNotFoundError,
    ConfigurationError,
    DecryptionError,
    IntegrityError,
    NoMatchingKeyError,
    UnsupportedFormatError,
)
from ..model.blobs import BlobInfo
from ..model.json_input import check_nesting, typed
from .keys import ID_BYTES, MAX_GENERATION, ReadKeys
from .layout import ACCESS_PREFIX, access_key

__all__ = [
    "MAX_PASSPHRASE_WORK_KIB",
    "AccessFile",
    "access_files",
    "open_access",
    "opening_keys",
    "put_access",
    "rotation_id",
    "sealing_keys",
    "try_access",
]

FORMAT: Final = "knowtation-repository-access"
VERSION: Final = 1

MAX_ACCESS_BYTES: Final = 1 << 20
"""Of an access file; the secrets take 150 bytes for each generation of the repository key."""
MAX_ACCESS_FILES: Final = 1_000
"""Looked at; more than that are not of any use to anybody."""
MAX_PASSPHRASE_WORK_KIB: Final = 64 << 20
"""Memory times iterations of Argon2id, over all access files: about 300 tries at the usual cost, a minute or two."""
_READS: Final = 8
_KEY: Final = re.compile(re.escape(ACCESS_PREFIX) + r"([0-9a-f]{32})\.access")
_DAMAGE: Final = (IntegrityError, DecryptionError, UnsupportedFormatError)


@attrs.frozen(kw_only=True)
class AccessFile:
    """An access file of a listing, as its header describes it to anybody."""

    key: str
    """In the store."""
    info: BlobInfo = attrs.field(repr=False)
    stored: bytes = attrs.field(repr=False, default=b"")
    description: Ktb2Description | None = None
    """`None` when the header cannot be read."""
    error: BackupError | None = None
    """Why it cannot be read."""

    @property
    def access_id(self) -> str:
        """32 hexadecimal digits that name it."""
        return self.key.removeprefix(ACCESS_PREFIX).removesuffix(".access")

    @property
    def passphrase_work_kib(self) -> int:
        """What trying one passphrase costs: memory times iterations."""
        slots = self.description.slots if self.description is not None else ()
        return sum(slot.argon2[0] * slot.argon2[1] for slot in slots if slot.argon2 is not None)

    def secrets(self, keys: Sequence[OpeningKey]) -> ReadKeys:
        """
        Return the secrets it holds.

        Raises:
            NoMatchingKeyError: None of the keys opens it.
            IntegrityError: It holds something else; `TamperedError`, `TruncatedError`: it was changed.
        """
        if self.error is not None:
            raise self.error
        limit = MAX_ACCESS_BYTES
        parts: list[bytes] = []
        for part in Ktb2Codec(open_with=keys).open(lambda: iter((self.stored,))):
            limit -= len(part)
            if limit < 0:  # pragma: no cover - the plaintext of KTB2 is never longer than the file
                raise IntegrityError("an access file holds too much", kind="bad_access")
            parts.append(part)
        return _parsed(b"".join(parts))


def opening_keys(keys: OpeningKey | Iterable[OpeningKey]) -> tuple[OpeningKey, ...]:
    """
    Return keys as a tuple.

    Raises:
        ConfigurationError: Something else than an `EncryptionKey`, a `Passphrase` or a `PrivateKey`; or nothing.
    """
    listed = tuple(keys) if isinstance(keys, Iterable) else (keys,)
    given: Iterable[object] = listed
    for key in given:
        if not isinstance(key, (EncryptionKey, Passphrase, PrivateKey)):
            message = f"cannot open a repository with a {type(key).__name__}"
            hint = "an EncryptionKey, a Passphrase, a PrivateKey, or alone a WriterKey"
            raise ConfigurationError(message, kind="bad_recipient", hint=hint)
    if not listed:
        raise ConfigurationError("no key was given", kind="bad_recipient", hint="pass the key of a recipient")
    return tuple(dict.fromkeys(listed))


def sealing_keys(keys: SealingKey | Iterable[SealingKey]) -> tuple[SealingKey, ...]:
    """
    Return recipients as a tuple.

    Raises:
        ConfigurationError: Something else than an `EncryptionKey`, a `Passphrase` or a `PublicKey`, kind
            ``bad_recipient``; or nobody, kind ``no_recipient``.
    """
    listed = tuple(keys) if isinstance(keys, Iterable) else (keys,)
    given: Iterable[object] = listed
    for key in given:
        if not isinstance(key, (EncryptionKey, Passphrase, PublicKey)):
            message = f"a {type(key).__name__} cannot be a recipient"
            hint = "an EncryptionKey, a Passphrase or a PublicKey; of a PrivateKey, its public_key"
            raise ConfigurationError(message, kind="bad_recipient", hint=hint)
    if not listed:
        message = "a repository that nobody can open would be lost"
        raise ConfigurationError(message, kind="no_recipient", hint="pass seal_to=")
    return tuple(dict.fromkeys(listed))


def put_access(
    sink: ArchiveSink,
    keys: ReadKeys,
    recipient: SealingKey,
    *,
    kdf: Argon2Parameters | None = None,
    access_id: bytes | None = None,
) -> str:
    """
    Write an access file for one recipient, and return its key.

    Args:
        sink: Where to.
        keys: The secrets.
        recipient: Will open it.
        kdf: What passphrases cost to try; `None` means the defaults of KTB2.
        access_id: What names it, 16 bytes; `None`: random.

    Raises:
        BlobExistsError: Another one has this name.
        SinkError: Storing failed.
    """
    codec = Ktb2Codec(seal_to=recipient, kdf=kdf)
    stored = b"".join(codec.seal((_to_bytes(keys),)))
    key = access_key(access_id or secrets.token_bytes(ID_BYTES))
    try:
        sink.put(key, (stored,))
    except BlobExistsError:  # perhaps ours, of an attempt whose answer was lost
        if _read(sink, key) != stored:
            raise
    return key


def rotation_id(keys: ReadKeys) -> bytes:
    """Return what names the first access file of the newest generation, so that only one host can make it."""
    claimed = keys.writer_key.digest(b"access")
    claimed.update(max(keys.private_keys).to_bytes(8, "big"))
    return claimed.digest(ID_BYTES)


def access_files(sink: ArchiveSink) -> list[AccessFile]:
    """
    Return the access files of a store, sorted by key, without opening any; at most `MAX_ACCESS_FILES`.

    Raises:
        SinkError: The store could not be reached, or refuses.
    """
    listed = (info for info in sink.list(ACCESS_PREFIX) if _KEY.fullmatch(info.key))
    wanted = list(islice(listed, MAX_ACCESS_FILES))
    with ThreadPoolExecutor(_READS, thread_name_prefix="access") as executor:
        found = list(executor.map(lambda info: _access_file(sink, info), wanted))
    return [file for file in found if file is not None]


def _access_file(sink: ArchiveSink, info: BlobInfo) -> AccessFile | None:
    try:
        stored = _read(sink, info.key)
    except BlobNotFoundError:
        return None  # removed meanwhile
    if len(stored) > MAX_ACCESS_BYTES:
        message = f"{info.key} has more than {MAX_ACCESS_BYTES} bytes"
        return AccessFile(key=info.key, info=info, error=IntegrityError(message, kind="bad_access", key=info.key))
    try:
        description = describe(lambda: iter((stored,)))
    except _DAMAGE as error:
        return AccessFile(key=info.key, info=info, error=error)
    return AccessFile(key=info.key, info=info, stored=stored, description=description)


def _read(sink: ArchiveSink, key: str) -> bytes:
    return b"".join(sink.read(key, size_bytes=MAX_ACCESS_BYTES + 1))


def open_access(sink: ArchiveSink, keys: Sequence[OpeningKey], repository_id: bytes) -> ReadKeys:
    """
    Return the secrets of a repository: the newest that any access file gives to any of the keys.

    Passphrases are tried last, on what nothing else opened, the cheapest files first, and not beyond
    `MAX_PASSPHRASE_WORK_KIB`.

    Raises:
        NoMatchingKeyError: None of the keys opens any access file.
        BlobNotFoundError: There is no access file, kind ``no_access_file``.
        IntegrityError: There are only damaged ones, or forged ones (``bad_access``); `TamperedError`,
            `UnsupportedFormatError` likewise.
        SinkError: The store could not be reached, or refuses.
    """
    files = access_files(sink)
    found: list[ReadKeys] = []
    errors: list[BackupError] = []
    for opened in _attempts(files, keys, repository_id):
        if isinstance(opened, ReadKeys):
            found.append(opened)
        else:
            errors.append(opened)
    if found:
        return max(found, key=lambda opened: max(opened.private_keys))
    if not files:
        message = f"there is no access file in {sink.location}, which holds the keys of its repository"
        raise BlobNotFoundError(message, kind="no_access_file", hint=f"copy {ACCESS_PREFIX} from a replica")
    if any(isinstance(error, NoMatchingKeyError) for error in errors) or not errors:
        raise _no_key(sink, files, keys, damaged=sum(not isinstance(e, NoMatchingKeyError) for e in errors))
    raise errors[0]


def _attempts(
    files: Sequence[AccessFile], keys: Sequence[OpeningKey], repository_id: bytes
) -> Iterator[ReadKeys | BackupError]:
    exact = [key for key in keys if not isinstance(key, Passphrase)]
    passphrases = [key for key in keys if isinstance(key, Passphrase)]
    closed: list[AccessFile] = []
    for file in files:
        result = try_access(file, exact, repository_id)
        if isinstance(result, NoMatchingKeyError) and passphrases and file.passphrase_work_kib:
            closed.append(file)
        else:
            yield result
    room = MAX_PASSPHRASE_WORK_KIB
    for file in sorted(closed, key=lambda file: file.passphrase_work_kib):
        room -= file.passphrase_work_kib * len(passphrases)
        if room < 0:
            return
        yield try_access(file, passphrases, repository_id)


def try_access(file: AccessFile, keys: Sequence[OpeningKey], repository_id: bytes) -> ReadKeys | BackupError:
    """
    Return the secrets of a repository that an access file gives to any of the keys, or why it does not.

    That is a `NoMatchingKeyError` when none of them opens it, and what is wrong with the file otherwise: damage, or
    secrets of another repository, kind ``bad_access``.
    """
    try:
        opened = file.secrets(keys)
    except _DAMAGE as error:
        return error
    if opened.repository_id != repository_id or not opened.found_repository:
        message = f"{file.key} holds secrets of another repository"
        hint = "somebody may have put it there; do not use what it holds"
        return IntegrityError(message, kind="bad_access", hint=hint, key=file.key)
    return opened


def _no_key(
    sink: ArchiveSink, files: Sequence[AccessFile], keys: Sequence[OpeningKey], *, damaged: int
) -> NoMatchingKeyError:
    slots = [slot for file in files if file.description is not None for slot in file.description.slots]
    wanted = tuple(dict.fromkeys(slot.key_id for slot in slots if slot.key_id is not None))
    given = tuple(key.key_id for key in keys if not isinstance(key, Passphrase))
    ways = list(dict.fromkeys(f"{slot.kind} {slot.key_id}" if slot.key_id else slot.kind for slot in slots))
    shown = ", ".join(ways[:10]) + (f" and {len(ways) - 10} more" if len(ways) > 10 else "")
    had = [*given, *("a passphrase" for key in keys if isinstance(key, Passphrase))]
    message = f"the repository in {sink.location} opens with {shown or 'nothing'}; at hand: {', '.join(had)}"
    if damaged:
        message += f"; {damaged} access file(s) cannot be read"
    hint = "use the key of a recipient"
    if len(files) >= MAX_ACCESS_FILES:
        hint = f"more than {MAX_ACCESS_FILES} access files are not looked at: remove those that are none of yours"
    return NoMatchingKeyError(message, hint=hint, wanted=wanted, given=given, damaged=damaged)


def _to_bytes(keys: ReadKeys) -> bytes:
    value = {
        "format": FORMAT,
        "format_version": VERSION,
        "repository_id": keys.repository_id.hex(),
        "id_key": keys.id_key.hex(),
        "index_key": keys.index_key.hex(),
        "repository_keys": [[number, key.to_text()] for number, key in sorted(keys.private_keys.items())],
    }
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _parsed(data: bytes) -> ReadKeys:
    try:
        check_nesting(data)
        value = json.loads(data)
        if value["format"] != FORMAT:
            raise IntegrityError("an access file holds something else than secrets of a repository", kind="bad_access")
        if value["format_version"] != VERSION:
            message = f"an access file has format version {value['format_version']!r:.20}; this release reads {VERSION}"
            raise UnsupportedFormatError(message, hint="use a newer release of knowtation-backup")
        return ReadKeys(
            repository_id=bytes.fromhex(value["repository_id"]),
            id_key=bytes.fromhex(value["id_key"]),
            index_key=bytes.fromhex(value["index_key"]),
            private_keys=dict(map(_repository_key, value["repository_keys"])),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass  # the chain could repeat what was read
    raise IntegrityError("the secrets in an access file cannot be read", kind="bad_access")


def _repository_key(value: Any) -> tuple[int, PrivateKey]:
    number, text = value
    if not 1 <= typed(number, int) <= MAX_GENERATION:
        raise IntegrityError("an access file has a generation that cannot be", kind="bad_access")
    return number, PrivateKey.from_text(typed(text, str))
