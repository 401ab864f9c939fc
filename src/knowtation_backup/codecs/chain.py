"""
Several codecs as one, and the codec that opens what a manifest describes.

A chunk goes through a chain in one direction: compressed first, sealed last; opening is the same way backwards.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

from .._engine.chunking import stopping
from ..contracts import Codec, CompressionCodec, EncryptionCodec, ReadBlob
from ..errors import ConfigurationError, NoMatchingKeyError, UnsupportedFormatError
from ..model.manifest import CodecSpec
from .compression import compression_for

__all__ = ["CodecChain", "opener", "seals"]

_MOST_CODECS = 8
"""Chains are one or two codecs long; each takes memory, and a place on the stack."""


class CodecChain(Codec):
    """
    Applies *codecs* in order when sealing, and in reverse when opening.

    Raises:
        ConfigurationError: Compression after encryption, which could only waste time: sealed bytes do not compress.
    """

    def __init__(self, *codecs: Codec) -> None:
        self.codecs: tuple[Codec, ...] = tuple(_flat(codecs))
        sealed = False
        for codec in self.codecs:
            if sealed and isinstance(codec, CompressionCodec):
                message = f"{codec.specs[0].name} comes after encryption in this chain"
                raise ConfigurationError(message, kind="bad_codec_order", hint="compress first, encrypt last")
            sealed |= isinstance(codec, EncryptionCodec)
        self.suffix: str = "".join(codec.suffix for codec in self.codecs)

    def __repr__(self) -> str:
        """Return the codecs' own descriptions."""
        return f"CodecChain({', '.join(map(repr, self.codecs))})"

    @property
    def specs(self) -> tuple[CodecSpec, ...]:
        """Those of the codecs, in order."""
        return tuple(spec for codec in self.codecs for spec in codec.specs)

    def seal(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Send the chunks through every codec; one that cannot seal says so at once."""
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(stopping(chunks))
            for codec in self.codecs:
                stream = stack.enter_context(stopping(codec.seal(stream)))
            return _within(stack.pop_all(), stream)

    def open(self, read: ReadBlob) -> Iterator[bytes]:
        """Send the stored bytes back through every codec."""
        for codec in reversed(self.codecs):
            read = _opened(codec, read)
        with stopping(read()) as stream:
            yield from stream


def _within(stack: contextlib.ExitStack, stream: Iterator[bytes]) -> Iterator[bytes]:
    with stack:
        yield from stream


def _opened(codec: Codec, read: ReadBlob) -> ReadBlob:
    return lambda: codec.open(read)


def _flat(codecs: Iterable[Codec]) -> Iterator[Codec]:
    for codec in codecs:
        if isinstance(codec, CodecChain):
            yield from codec.codecs
        else:
            yield codec


def seals(codec: Codec | None) -> bool:
    """Return whether what *codec* yields was authenticated by it; compression alone vouches for nothing."""
    return any(isinstance(part, EncryptionCodec) for part in _flat([codec] if codec else []))


def opener(specs: Sequence[CodecSpec], keys: Codec | None, *, what: str) -> Codec | None:
    """
    Return the codec that undoes *specs*, `None` when there is nothing to undo.

    Args:
        specs: What the bytes went through, in order.
        keys: Whose encryption codecs hold keys, and whose compressions may have limits of their own; what else it does,
            and in which order, is of no importance. `None` for no keys.
        what: What is to be opened, for messages.

    Raises:
        NoMatchingKeyError: Sealed with a key that is not among *keys*.
        UnsupportedFormatError: A transform this release does not know, or that none of *keys* undoes.
        ConfigurationError: A package that the compression needs is not installed.
    """
    if not specs:
        return None
    if len(specs) > _MOST_CODECS:
        message = f"{what} went through {len(specs)} transforms; this release undoes {_MOST_CODECS}"
        raise UnsupportedFormatError(message, hint="find out who wrote it")
    given = list(_flat([keys] if keys else []))
    holders = [codec for codec in given if isinstance(codec, EncryptionCodec)]
    codecs = [_decompression(spec, given) or _decryption(spec, holders, what) for spec in specs]
    return codecs[0] if len(codecs) == 1 else CodecChain(*codecs)


def _decompression(spec: CodecSpec, given: Sequence[Codec]) -> Codec | None:
    for codec in given:
        if isinstance(codec, CompressionCodec) and [ours.name for ours in codec.specs] == [spec.name]:
            return codec
    return compression_for(spec.name)


def _decryption(spec: CodecSpec, holders: Sequence[EncryptionCodec], what: str) -> EncryptionCodec:
    found = next((codec for holder in holders if (codec := holder.for_spec(spec)) is not None), None)
    if found is not None:
        return found
    wanted = ", ".join(spec.key_ids) or "unnamed"
    if not holders:
        message = f"{what} is sealed ({spec.name}, key {wanted}) and no key was given"
        raise NoMatchingKeyError(message, hint="pass the codec with its key", wanted=spec.key_ids)
    offered = [ours for holder in holders for ours in holder.opens]
    same_format = [ours for ours in offered if ours.name == spec.name]
    if not same_format:
        names = ", ".join(dict.fromkeys(ours.name for ours in offered)) or "none"
        message = f"{what} is sealed with {spec.name}; the codec given is {names}"
        raise UnsupportedFormatError(message, kind="other_codec")
    given = tuple(dict.fromkeys(key_id for ours in same_format for key_id in ours.key_ids))
    if given and spec.key_ids:
        message = f"{what} is sealed with key {wanted}; the key given is {', '.join(given)}"
    else:
        message = f"{what} is sealed ({spec.name}, key {wanted}) and no key was given that is for it"
    raise NoMatchingKeyError(message, hint="use the other key", wanted=spec.key_ids, given=given)
