"""
Files of frames: how packs, indexes, manifests and notes are compressed, sealed, cut and opened.

Layout on the format page, ``docs/reference/repository.md``. Every file has a key of its own; frames are numbered by
their nonce, and the last one is marked, so that frames can neither be exchanged nor cut off unnoticed.
"""

from __future__ import annotations

import enum
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import attrs
import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..errors import IntegrityError, InternalError, TamperedError, TruncatedError, UnsupportedFormatError
from .keys import ReadKeys, WriterKey

__all__ = [
    "MAX_CONTENT_BYTES",
    "MAX_FRAME_BYTES",
    "Compressor",
    "FileHead",
    "FileKind",
    "Frame",
    "open_file",
    "open_frame",
    "parse_head",
    "seal_small",
    "split_frames",
]

MAX_CONTENT_BYTES: Final = 4 << 20
"""Plain content of one frame at most."""
CONTEXT: Final = b"knowtation-repository-v1"

_MAGIC: Final = b"KBR1"
_HEAD_BYTES: Final = 10
_FILE_KEY_BYTES: Final = 32
_TAG_BYTES: Final = 16
_LENGTH_BYTES: Final = 4
_MAX_SEALED_BYTES: Final = MAX_CONTENT_BYTES + 4096
MAX_FRAME_BYTES: Final = _LENGTH_BYTES + _MAX_SEALED_BYTES
"""Of a stored frame with its length."""
MAX_FILE_BYTES: Final = 64 << 20
"""Plain content of an index or manifest at most: what a reader takes into memory, however well it was compressed."""
_TYPICAL_BYTES: Final = 1 << 20
_MATCHES: Final[Mapping[int, Mapping[str, int]]] = {3: {"min_match": 6}}
"""The default level with longer matches: of canister memory a tenth faster, and 0.1 % larger."""
_TO_REPOSITORY: Final = 1
_WITH_INDEX_KEY: Final = 2
_PLAIN: Final = 0
_ZSTD: Final = 1
_MAX_MATERIAL_BYTES: Final = 4096


class FileKind(enum.IntEnum):
    """What a file of frames is."""

    PACK = 1
    INDEX = 2
    MANIFEST = 3
    TENANT_KEY = 4
    PRUNE_NOTE = 5
    ERASURE = 6

    @property
    def is_content(self) -> bool:
        """Whether only those who may read content can open it: sealed to the repository key."""
        return self in {FileKind.PACK, FileKind.TENANT_KEY}


@attrs.frozen(kw_only=True, eq=False)
class FileHead:
    """The beginning of a file, and the key of its frames."""

    stored: bytes
    """As it lies in the store, before the first frame."""
    bound: bytes = attrs.field(repr=False)
    """What everything sealed in this file is bound to: format, repository, kind and generation."""
    _cipher: AESGCM = attrs.field(repr=False)

    @classmethod
    def new(cls, kind: FileKind, keys: WriterKey) -> FileHead:
        """Begin a new file with a key of its own."""
        generation = keys.generation if kind.is_content else 0
        head = _MAGIC + bytes([kind, _TO_REPOSITORY if kind.is_content else _WITH_INDEX_KEY])
        head += generation.to_bytes(2, "big")
        bound = CONTEXT + keys.repository_id + head
        if kind.is_content:
            file_key = secrets.token_bytes(_FILE_KEY_BYTES)
            material = keys.seal(file_key, info=bound)
        else:
            material = secrets.token_bytes(_FILE_KEY_BYTES)
            file_key = _derive(keys.index_key, material, bound)
        stored = head + len(material).to_bytes(2, "big") + material
        return cls(stored=stored, bound=bound, cipher=AESGCM(file_key))

    def seal(self, number: int, body: bytes, *, last: bool) -> bytes:
        """Return frame *number* with its length: *body* is the marker byte and the content, see `Compressor`."""
        return b"".join(self.seal_parts(number, body, last=last))

    def seal_parts(self, number: int, body: bytes, *, last: bool) -> tuple[bytes, bytes]:
        """Return the length and the sealed body of frame *number*, for those who need not join them."""
        sealed = self._cipher.encrypt(_nonce(number, last=last), body, None)
        return len(sealed).to_bytes(_LENGTH_BYTES, "big"), sealed

    def open(self, number: int, sealed: bytes | memoryview, *, last: bool | None = None) -> bytes:
        """
        Return the body of frame *number*; *sealed* is without its length.

        Args:
            number: From 0.
            sealed: Ciphertext and tag.
            last: Whether it must be the last one, or must not; `None` takes either.

        Raises:
            TamperedError: It is not this frame of this file.
        """
        for flag in (False, True) if last is None else (last,):
            try:
                return self._cipher.decrypt(_nonce(number, last=flag), sealed, None)
            except InvalidTag:
                continue
        message = f"frame {number} does not open with its file's key"
        raise TamperedError(message, kind="frame_tampered", hint="repair the object from a replica", frame=number)


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\x01" if last else b"\x00")


def _derive(index_key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=_FILE_KEY_BYTES, salt=salt, info=info).derive(index_key)


def parse_head(kind: FileKind, data: bytes | memoryview, keys: ReadKeys | WriterKey) -> FileHead:
    """
    Read the beginning of a file, of which *data* holds at least `HEAD_LIMIT_BYTES` or everything.

    Raises:
        IntegrityError: It is not a file of this kind, or sealed in no way there is: a newer way would be a required
            feature of the repository.
        NoMatchingKeyError: The keys at hand do not open it; a writer key opens no content.
    """
    view = memoryview(data)
    if len(view) < _HEAD_BYTES:
        raise TruncatedError("an object is shorter than the head of a file", kind="truncated")
    if bytes(view[:4]) != _MAGIC or view[4] != kind:
        raise IntegrityError(f"an object is not a file of kind {kind.name}", kind="bad_object")
    size = int.from_bytes(view[8:10], "big")
    if size > _MAX_MATERIAL_BYTES or len(view) < _HEAD_BYTES + size:
        raise TruncatedError("an object ends within the head of its file", kind="truncated")
    generation = int.from_bytes(view[6:8], "big")
    material = bytes(view[_HEAD_BYTES : _HEAD_BYTES + size])
    bound = CONTEXT + keys.repository_id + bytes(view[:8])
    if view[5] == _TO_REPOSITORY and kind.is_content:
        file_key = keys.unseal(material, info=bound, generation=generation)
    elif view[5] == _WITH_INDEX_KEY and not kind.is_content:
        file_key = _derive(keys.index_key, material, bound)
    else:
        raise IntegrityError(f"an object is sealed in an unknown way ({view[5]})", kind="bad_object")
    return FileHead(stored=bytes(view[: _HEAD_BYTES + size]), bound=bound, cipher=AESGCM(file_key))


HEAD_LIMIT_BYTES: Final = _HEAD_BYTES + _MAX_MATERIAL_BYTES


@attrs.frozen(eq=False)
class Frame:
    """Where a frame is in its file, and its body once opened."""

    number: int
    offset: int
    length: int
    """With the length field."""


def split_frames(head: FileHead, data: memoryview) -> list[Frame]:
    """
    Return the frames of a whole file.

    Raises:
        TruncatedError: The file ends within a frame, or holds none.
        IntegrityError: A frame says it is longer than any can be.
    """
    frames: list[Frame] = []
    offset = len(head.stored)
    while offset < len(data):
        length = int.from_bytes(data[offset : offset + _LENGTH_BYTES], "big")
        if length > _MAX_SEALED_BYTES:
            message = f"frame {len(frames)} says it has {length} bytes"
            raise IntegrityError(message, kind="bad_object", frame=len(frames))
        end = offset + _LENGTH_BYTES + length
        if length < _TAG_BYTES or end > len(data):
            raise TruncatedError(f"a file ends within frame {len(frames)}", kind="truncated", frame=len(frames))
        frames.append(Frame(len(frames), offset, end - offset))
        offset = end
    if not frames:
        raise TruncatedError("a file of frames holds none", kind="truncated")
    return frames


def open_frame(head: FileHead, frame: Frame, data: memoryview, *, last: bool | None = None) -> bytes:
    """Return the body of a frame of a whole file."""
    sealed = data[frame.offset + _LENGTH_BYTES : frame.offset + frame.length]
    return head.open(frame.number, sealed, last=last)


def open_file(kind: FileKind, data: bytes | memoryview, keys: ReadKeys | WriterKey) -> Iterator[bytes]:
    """
    Yield the contents of all frames of a whole file, together at most `MAX_FILE_BYTES`.

    Raises:
        BackupError: As `parse_head`, `split_frames`, `FileHead.open` and `content_of`.
    """
    view = memoryview(data)
    head = parse_head(kind, view, keys)
    frames = split_frames(head, view)
    room = MAX_FILE_BYTES
    for frame in frames:
        content = content_of(open_frame(head, frame, view, last=frame.number == len(frames) - 1))
        room -= len(content)
        if room < 0:
            raise IntegrityError(f"an object holds more than {MAX_FILE_BYTES} bytes when unpacked", kind="bad_object")
        yield content


def seal_small(kind: FileKind, keys: WriterKey, contents: Sequence[bytes]) -> bytes:
    """
    Return a whole file of a few frames.

    Raises:
        InternalError: It would be larger than any reader takes.
    """
    if sum(map(len, contents)) > MAX_FILE_BYTES or any(len(content) > MAX_CONTENT_BYTES for content in contents):
        raise InternalError("an object would be larger than readers take", kind="internal")
    head = FileHead.new(kind, keys)
    compressor = Compressor()
    last = len(contents) - 1
    frames = (head.seal(n, compressor.body(content), last=n == last) for n, content in enumerate(contents))
    return b"".join((head.stored, *frames))


class Compressor:
    """Makes bodies of contents; may be used by several threads."""

    def __init__(self, level: int = 3) -> None:
        self._parameters = zstandard.ZstdCompressionParameters.from_level(
            level, source_size=_TYPICAL_BYTES, write_checksum=False, **_MATCHES.get(level, {})
        )
        self._local = threading.local()

    def body(self, content: bytes) -> bytes:
        """
        Return marker byte and the content, compressed where that makes it smaller.

        Raises:
            InternalError: It is more than any reader takes. Nothing of that kind may ever be published.
        """
        if len(content) > MAX_CONTENT_BYTES:
            message = f"a frame of {len(content)} bytes would be written, and read by nobody"
            raise InternalError(message, size_bytes=len(content))
        compressor: zstandard.ZstdCompressor | None = getattr(self._local, "compressor", None)
        if compressor is None:
            compressor = zstandard.ZstdCompressor(compression_params=self._parameters)
            self._local.compressor = compressor
        packed = compressor.compress(content)
        if len(packed) < len(content):
            return b"%c%b" % (_ZSTD, packed)
        return b"%c%b" % (_PLAIN, content)


_decompressors = threading.local()


def content_of(body: bytes) -> bytes:
    """
    Return the content of a body without a tenant's seal.

    Raises:
        IntegrityError: Not a body, or larger than any can be.
    """
    if not body:
        raise IntegrityError("a frame is empty", kind="bad_object")
    if body[0] == _PLAIN:
        return body[1:]
    if body[0] == _ZSTD:
        return unpacked(memoryview(body)[1:])
    raise UnsupportedFormatError(f"a frame begins with {body[0]}, which this release does not know", kind="bad_object")


def unpacked(data: bytes | memoryview) -> bytes:
    """Return what zstd packed, at most `MAX_CONTENT_BYTES`."""
    decompressor: zstandard.ZstdDecompressor | None = getattr(_decompressors, "value", None)
    if decompressor is None:
        decompressor = _decompressors.value = zstandard.ZstdDecompressor()
    try:
        if not 0 <= zstandard.frame_content_size(data) <= MAX_CONTENT_BYTES:
            raise IntegrityError("a frame holds more than any may", kind="bad_object")
        return decompressor.decompress(data, max_output_size=MAX_CONTENT_BYTES)
    except zstandard.ZstdError as error:
        raise IntegrityError("a frame does not unpack", kind="bad_object") from error
