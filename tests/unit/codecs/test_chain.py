"""Chains: the order is checked, they open backwards, and a manifest's specs find the codecs that undo them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

import attrs
import pytest

from knowtation_backup._engine.chunking import stopping
from knowtation_backup.codecs.chain import CodecChain, opener
from knowtation_backup.codecs.compression import Compression
from knowtation_backup.codecs.keys import EncryptionKey
from knowtation_backup.codecs.ktb1 import Ktb1Codec
from knowtation_backup.codecs.ktb2 import Ktb2Codec
from knowtation_backup.contracts import Codec, CompressionCodec, EncryptionCodec, ReadBlob
from knowtation_backup.errors import (
    ConfigurationError,
    IntegrityError,
    NoMatchingKeyError,
    TamperedError,
    UnsupportedFormatError,
)
from knowtation_backup.exports.unwrap import UnwrapLimits
from knowtation_backup.model.manifest import CodecSpec

KEY = EncryptionKey(raw=bytes(range(32)))
OTHER_KEY = EncryptionKey(raw=bytes(32))
KTB1 = Ktb1Codec(KEY)
KTB2 = Ktb2Codec(seal_to=KEY)
sealers = pytest.mark.parametrize("sealer", [KTB1, KTB2], ids=["ktb1", "ktb2"])
ZSTD = Compression("zstd")
TEXT = b"".join(b"line %d of a text that compresses\n" % number for number in range(20_000))
MIB = 1 << 20


def sealed(codec: Codec, data: bytes = TEXT) -> bytes:
    return b"".join(codec.seal([data[:1000], data[1000:]]))


def opened(codec: Codec, stored: bytes) -> bytes:
    return b"".join(codec.open(lambda: iter([stored[:100], stored[100:]])))


@attrs.frozen(eq=False)
class Noted:
    """Chunks that know whether they were closed."""

    chunks: Iterator[bytes]
    closed: list[bool] = attrs.field(factory=list)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self.chunks)

    def close(self) -> None:
        self.closed.append(True)


class Rot13(CompressionCodec):
    """Somebody's own transform."""

    suffix = ".rot"

    @property
    def specs(self) -> tuple[CodecSpec, ...]:
        return (CodecSpec(name="rot"),)

    def seal(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            yield bytes((byte + 13) % 256 for byte in chunk)

    def open(self, read: ReadBlob) -> Iterator[bytes]:
        for chunk in read():
            yield bytes((byte - 13) % 256 for byte in chunk)


@pytest.mark.parametrize("algorithm", ["gzip", "zstd", "brotli", "xz", "auto"])
@sealers
def test_what_is_compressed_and_sealed_opens(algorithm: str, sealer: EncryptionCodec) -> None:
    chain = CodecChain(Compression(algorithm, level=1), sealer)
    stored = sealed(chain)
    assert len(stored) < len(TEXT) / 4
    assert stored.startswith(b"KTB")
    assert opened(chain, stored) == TEXT
    assert opened(Compression(algorithm), opened(sealer, stored)) == TEXT
    found = opener(chain.specs, sealer, what="it")
    assert found is not None
    assert opened(found, stored) == TEXT


def test_names_and_specs_follow_the_order() -> None:
    chain = CodecChain(ZSTD, KTB1)
    assert chain.suffix == ".zst.enc"
    assert chain.specs == (CodecSpec(name="zstd"), KTB1.spec)


def test_a_chain_of_nothing_changes_nothing() -> None:
    chain = CodecChain()
    assert (chain.specs, chain.suffix, sealed(chain), opened(chain, TEXT)) == ((), "", TEXT, TEXT)


def test_chains_in_chains_are_one_chain() -> None:
    nested = CodecChain(CodecChain(CodecChain(ZSTD)), CodecChain(KTB1))
    assert nested.codecs == (ZSTD, KTB1)
    assert opened(CodecChain(ZSTD, KTB1), sealed(nested)) == TEXT


@pytest.mark.parametrize("wrong", [[KTB1, ZSTD], [CodecChain(ZSTD, KTB1), Compression("gzip")]])
def test_compression_after_encryption_is_refused(wrong: list[Codec]) -> None:
    with pytest.raises(ConfigurationError, match="comes after encryption") as caught:
        CodecChain(*wrong)
    assert caught.value.kind == "bad_codec_order"


def test_a_chain_shows_no_secret() -> None:
    shown = repr(CodecChain(ZSTD, KTB1))
    assert "zstd" in shown
    assert KEY.key_id in shown
    assert KEY.raw.hex() not in shown
    assert str(KEY.raw) not in shown


@sealers
def test_closing_a_chain_closes_its_source_and_ends_its_threads(sealer: EncryptionCodec) -> None:
    chain = CodecChain(Compression("zstd", threads=2), sealer)
    source = Noted(TEXT for _ in range(1000))
    with stopping(chain.seal(source)) as stream:
        next(stream), next(stream)
    assert source.closed
    stored = sealed(chain, TEXT * 30)
    reads: list[Noted] = []

    def read() -> Iterator[bytes]:
        reads.append(Noted(stored[start : start + 1000] for start in range(0, len(stored), 1000)))
        return reads[-1]

    with stopping(chain.open(read)) as stream:
        next(stream)
    assert len(reads) == (2 if sealer is KTB1 else 1)
    assert all(noted.closed for noted in reads)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


@sealers
def test_nothing_is_decompressed_before_it_was_authenticated(sealer: EncryptionCodec) -> None:
    chain = CodecChain(ZSTD, sealer)
    stored = bytearray(sealed(chain))
    stored[-1] ^= 1
    with pytest.raises(TamperedError):
        next(iter(chain.open(lambda: iter([bytes(stored)]))))


# -- what a manifest describes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["gzip", "zstd", "brotli", "xz", "auto"])
def test_specs_find_the_codecs(algorithm: str) -> None:
    chain = CodecChain(Compression(algorithm, level=1), KTB1)
    for keys in (KTB1, chain, CodecChain(KTB1), CodecChain(Rot13(), KTB1)):
        found = opener(chain.specs, keys, what="it")
        assert found is not None
        assert opened(found, sealed(chain)) == TEXT
        assert found.suffix == chain.suffix


def test_compression_alone_needs_no_key() -> None:
    found = opener(ZSTD.specs, None, what="it")
    assert found is not None
    assert opened(found, sealed(ZSTD)) == TEXT
    assert opener((), KTB1, what="it") is None


def test_limits_of_the_compression_at_hand_count() -> None:
    zeros = bytes(2 * MIB)
    strict = Compression("zstd", limits=UnwrapLimits(ratio=2, allowance_bytes=1000))
    found = opener(ZSTD.specs, CodecChain(strict, KTB1), what="it")
    assert found is strict
    with pytest.raises(IntegrityError, match="grew"):
        opened(found, sealed(ZSTD, zeros))


def test_somebodys_own_compression_is_found_too() -> None:
    chain = CodecChain(Rot13(), KTB1)
    found = opener(chain.specs, chain, what="it")
    assert found is not None
    assert opened(found, sealed(chain)) == TEXT
    with pytest.raises(UnsupportedFormatError, match="rot"):
        opener(chain.specs, KTB1, what="it")


def test_a_key_that_is_missing_or_another_is_named() -> None:
    specs = CodecChain(ZSTD, KTB1).specs
    with pytest.raises(NoMatchingKeyError, match="no key was given"):
        opener(specs, ZSTD, what="it")
    with pytest.raises(NoMatchingKeyError, match=f"{KEY.key_id}.*{Ktb1Codec(OTHER_KEY).spec.key_ids[0]}"):
        opener(specs, CodecChain(ZSTD, Ktb1Codec(OTHER_KEY)), what="it")


def test_one_of_several_keys_is_enough() -> None:
    keys = CodecChain(Ktb1Codec(OTHER_KEY), KTB1)
    found = opener(CodecChain(ZSTD, KTB1).specs, keys, what="it")
    assert found is not None
    assert opened(found, sealed(CodecChain(ZSTD, KTB1))) == TEXT


def test_the_codecs_of_a_chain_are_of_the_contracts() -> None:
    assert isinstance(ZSTD, CompressionCodec)
    assert isinstance(KTB1, EncryptionCodec)
