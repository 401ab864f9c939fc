"""
Undo what a stored file of unknown origin went through, layer by layer, going by its bytes.

Sealed layers need a key; compressed ones are undone when a Knowtation payload is inside, and otherwise left as they
are: a ``.tgz`` is a unit. At most a few hundred kB are held to look at the beginning of each layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs

from .._engine.chunking import stopping
from ..codecs.chain import CodecChain, opener
from ..codecs.ktb2 import describe
from ..contracts import ArchiveSink, Codec, EncryptionCodec, ReadBlob
from ..errors import (
    DecryptionError,
    UnsupportedFormatError,
)
from ..model.blobs import BlobRef
from ..model.manifest import CodecSpec
from .metering import Meter
from .read import HEAD_BYTES
from .recognising import KNOWTATION_KIND, Form, Recognised, recognise

__all__ = ["StoredFile", "Unfolded", "unfold"]

_MAX_LAYERS = 4
_PAYLOADS = frozenset({Form.JSON, Form.RECORDS})


class StoredFile:
    """Reads of one stored blob of which nothing is known yet; the first one tells size and digest."""

    def __init__(self, sink: ArchiveSink, key: str) -> None:
        self._sink = sink
        self._key = key
        self._first: Meter | None = None

    def __call__(self) -> Iterator[bytes]:
        """Start reading from the beginning."""
        if self._first is None:
            self._first = Meter(self._sink.read(self._key))
            return self._passed(self._first)
        return self._sink.read(self._key)

    @staticmethod
    def _passed(first: Meter) -> Iterator[bytes]:
        # Not `yield from`: whoever stops early would close the read, and `ref` could not go on.
        while (chunk := next(first, None)) is not None:
            yield chunk

    def ref(self) -> BlobRef:
        """Read what is left of the first pass and return what was stored."""
        if self._first is None:
            self._first = Meter(self._sink.read(self._key))
        self._first.drain()
        return BlobRef(key=self._key, size_bytes=self._first.size_bytes, sha256=self._first.sha256)

    def close(self) -> None:
        """Stop reading."""
        if self._first is not None:
            self._first.close()


class _Layer:
    """A `ReadBlob` whose beginning can be looked at; the next read goes on from there."""

    def __init__(self, read: ReadBlob) -> None:
        self._read = read
        self._begun: Iterator[bytes] | None = None
        self._parts: list[bytes] = []

    def head(self) -> bytes:
        """Return the first bytes, 320 KiB or somewhat more where there are as many."""
        if self._begun is None:
            self._begun = self._read()
        while sum(map(len, self._parts)) < HEAD_BYTES and (chunk := next(self._begun, None)) is not None:
            self._parts.append(chunk)
        return b"".join(self._parts)

    def __call__(self) -> Iterator[bytes]:
        begun, parts = self._begun, self._parts
        self._begun, self._parts = None, []
        return self._read() if begun is None else self._resumed(parts, begun)

    @staticmethod
    def _resumed(parts: list[bytes], begun: Iterator[bytes]) -> Iterator[bytes]:
        with stopping(begun) as rest:
            yield from parts
            yield from rest

    def close(self) -> None:
        """Stop a read that was begun to look at the beginning."""
        close = getattr(self._begun, "close", None)
        if close is not None:
            close()
        self._begun, self._parts = None, []


@attrs.frozen(kw_only=True)
class Unfolded:
    """A stored file whose outer layers are known."""

    read: ReadBlob = attrs.field(repr=False)
    """Starts reading the payload."""
    codecs: tuple[CodecSpec, ...]
    """What the payload went through before it was stored, in order."""
    inside: Recognised
    """What the payload is; of a compressed one that is left so, what it holds."""
    left: Codec | None = None
    """The compression that was not undone."""

    def expand(self, payload: Iterable[bytes]) -> Iterator[bytes]:
        """Undo for checking what was not undone for reading; *payload* is never closed."""
        return iter(payload) if self.left is None else self.left.open(lambda: (chunk for chunk in payload))


def unfold(read: ReadBlob, keys: Codec | None, *, name: str) -> Unfolded:
    """
    Find out what a stored file went through.

    Args:
        read: Starts reading the stored bytes.
        keys: Opens sealed layers; see `opener`.
        name: Of the file, for messages; a brotli file needs one that says ``.br``.

    Raises:
        NoMatchingKeyError: A layer is sealed, and none of *keys* is for it.
        TamperedError: None of *keys* opens it, or the sealed bytes were changed.
        UnsupportedFormatError: Compressed after it was sealed, or too many layers.
        IntegrityError: A layer is damaged at its beginning.
        ConfigurationError: A package that a layer needs is not installed.
    """
    specs: list[CodecSpec] = []
    layer = _Layer(read)
    while len(specs) < _MAX_LAYERS:
        seen = recognise(layer.head())
        if seen.sealed:
            layer, spec = _unseal(layer, seen.codec, keys, name)
            specs.insert(0, spec)
            continue
        compression = _compression(seen, name)
        if not compression:
            return Unfolded(read=layer, codecs=tuple(specs), inside=seen)
        codec = opener((CodecSpec(name=compression),), keys, what=name)
        if codec is None:  # pragma: no cover - there is one for every name of ours
            break
        inner = _opened(codec, layer)
        inside = recognise(inner.head())
        if inside.sealed:
            message = f"{name} was compressed after it was sealed"
            raise UnsupportedFormatError(message, kind="bad_codec_order", hint="unpack it, then adopt what is inside")
        if not _is_payload(inside):
            inner.close()  # the next read of the layer begins anew
            return Unfolded(read=layer, codecs=tuple(specs), inside=inside, left=codec)
        specs.insert(0, CodecSpec(name=compression))
        layer = inner
    raise UnsupportedFormatError(f"{name} is wrapped more than {_MAX_LAYERS} times", hint="unpack it first")


def _opened(codec: Codec, layer: _Layer) -> _Layer:
    return _Layer(lambda: codec.open(layer))


def _is_payload(seen: Recognised) -> bool:
    """Whether it may be a payload of Knowtation; anything else is adopted as it is."""
    return seen.form in _PAYLOADS and (not seen.kind or seen.kind.startswith(KNOWTATION_KIND))


def _compression(seen: Recognised, file_name: str) -> str:
    if seen.compressed:
        return seen.codec
    return "brotli" if seen.form is Form.UNKNOWN and ".br" in file_name else ""


def _unseal(layer: _Layer, form: str, keys: Codec | None, what: str) -> tuple[_Layer, CodecSpec]:
    """Open a sealed layer with the first key that does."""
    failure: DecryptionError | None = None
    for spec in _candidates(layer, form, keys) or [CodecSpec(name=form)]:
        codec = opener((spec,), keys, what=what)
        if codec is None:  # pragma: no cover - it opens one spec
            continue
        opened = _opened(codec, layer)
        try:
            opened.head()
        except DecryptionError as error:
            failure = failure or error
        else:
            return opened, spec
    raise failure or UnsupportedFormatError(f"{what} is sealed in an unknown way")


def _candidates(layer: _Layer, form: str, keys: Codec | None) -> list[CodecSpec]:
    """Return what a manifest could say of a sealed layer, as precisely as its form allows."""
    if form == Form.KTB2.value:  # it names its keys itself
        slots = describe(lambda: iter([layer.head()])).slots
        return [CodecSpec(name=form, key_ids=tuple(slot.key_id for slot in slots if slot.key_id))]
    holders = keys.codecs if isinstance(keys, CodecChain) else (keys,)
    offered = [spec for holder in holders if isinstance(holder, EncryptionCodec) for spec in holder.opens]
    offered = [spec for spec in offered if spec.name == form]
    if form == Form.KTB1.value:  # one key at a time, so that the right one is named
        return [attrs.evolve(spec, key_ids=(key_id,)) for spec in offered for key_id in spec.key_ids]
    return offered
