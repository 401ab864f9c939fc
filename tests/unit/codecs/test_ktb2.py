"""KTB2: streams for several keys at once, re-wrapped without sealing again, read by others from the page alone."""

from __future__ import annotations

import json
import secrets
import tracemalloc
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from pathlib import Path

import ktb2_mini
import ktb2_vectors
import pytest

from knowtation_backup.codecs import _ktb2_payload
from knowtation_backup.codecs._ktb2_header import FileKey
from knowtation_backup.codecs.chain import opener
from knowtation_backup.codecs.keys import EncryptionKey, Passphrase, PrivateKey, PublicKey
from knowtation_backup.codecs.ktb2 import (
    DEFAULT_CHUNK_BYTES,
    Argon2Parameters,
    Ktb2Codec,
    OpeningKey,
    SealingKey,
    SlotInfo,
    describe,
    key_check,
    rewrap,
)
from knowtation_backup.errors import (
    BackupError,
    ConfigurationError,
    NoMatchingKeyError,
    TamperedError,
    TruncatedError,
    UnsupportedFormatError,
)
from knowtation_backup.model.manifest import CodecSpec

GOLDEN = sorted((Path(__file__).parents[2] / "golden" / "ktb2").glob("*.json"))
KEY = EncryptionKey(raw=bytes(range(32)))
CURVE = PrivateKey.generate("x25519")
HYBRID = PrivateKey.generate()
WORDS = Passphrase(text="Z\u00fcrich, correct horse")
ALL = (KEY, WORDS, CURVE, HYBRID)
KINDS = ["key", "passphrase", "x25519", "hybrid"]
FLOOR = Argon2Parameters(memory_kib=19 * 1024, iterations=2, lanes=1)
C = 4096
MIB = 1 << 20


def public(key: OpeningKey) -> SealingKey:
    return key.public_key if isinstance(key, PrivateKey) else key


def seal(text: bytes, *keys: OpeningKey, chunk_bytes: int = C) -> bytes:
    codec = Ktb2Codec(seal_to=map(public, keys or (KEY,)), chunk_bytes=chunk_bytes, kdf=FLOOR)
    return b"".join(codec.seal([text]))


def open_bytes(data: bytes, *keys: OpeningKey) -> bytes:
    return b"".join(Ktb2Codec(open_with=keys or (KEY,)).open(lambda: iter([data])))


def payload_of(data: bytes) -> bytes:
    return data[describe(lambda: iter([data])).header_bytes :]


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


# Vectors


def _key(vector: dict[str, str]) -> OpeningKey:
    if "key" in vector:
        return EncryptionKey.from_hex(vector["key"])
    if "passphrase" in vector:
        return Passphrase(text=vector["passphrase"])
    return PrivateKey.from_text(vector["private"])


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_vectors(path: Path) -> None:
    vector = json.loads(path.read_text(encoding="utf-8"))
    sealed = b64decode(vector["sealed"])
    released = bytearray()
    outcome = ["ok", ""]
    try:
        for piece in Ktb2Codec(open_with=_key(vector)).open(lambda: iter([sealed])):
            released += piece
    except BackupError as error:
        outcome = [type(error).__name__, error.kind]
    assert outcome == [vector["outcome"], vector["kind"]]
    assert len(released) == vector["released_bytes"]
    assert sha256(released).hexdigest() == vector["released_sha256"]


def test_vectors_can_be_made_again() -> None:
    made = ktb2_vectors.vectors()
    assert {path.stem for path in GOLDEN} == made.keys()
    for path in GOLDEN:
        if path.stem != "hybrid":  # encapsulation takes its own randomness
            assert json.loads(path.read_text(encoding="utf-8")) == made[path.stem], path.stem


def test_there_are_vectors_of_every_outcome() -> None:
    kinds = {json.loads(path.read_text(encoding="utf-8"))["kind"] for path in GOLDEN}
    assert kinds >= {
        "",
        "bad_magic",
        "unsupported_format",
        "bad_header",
        "truncated",
        "no_matching_key",
        "weak_parameters",
        "excessive_parameters",
        "header_tampered",
        "tampered",
        "trailing_data",
    }


def test_sealing_gives_the_bytes_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Symmetric slots have no randomness but what `secrets` gives, so a second writer must agree on every bit."""
    given: list[bytes] = []

    def counted(size: int) -> bytes:
        given.append(bytes((len(given) * 32 + i) % 256 for i in range(size)))
        return given[-1]

    monkeypatch.setattr(secrets, "token_bytes", counted)
    text = bytes(range(256)) * 20
    sealed = seal(text, KEY, WORDS)
    file_key, file_id, key_salt, words_salt = given
    file = ktb2_mini.File(file_key=file_key, file_id=file_id)
    file.add_key(KEY.raw, key_salt)
    file.add_passphrase("Zu\u0308rich, correct horse", words_salt, 19 * 1024, 2, 1)
    assert sealed == file.seal(text)


@pytest.mark.parametrize("size", [0, 1, C - 1, C, C + 1, 3 * C, 3 * C + 17, 300 * C])
def test_a_reader_written_from_the_page_opens_our_files(size: int) -> None:
    text = bytes(i % 251 for i in range(size))
    sealed = seal(text, KEY, CURVE, HYBRID)
    assert ktb2_mini.open_file(sealed, "key", KEY.raw) == text
    assert ktb2_mini.open_file(sealed, "x25519", CURVE.raw) == text
    assert ktb2_mini.open_file(sealed, "hybrid", HYBRID.raw) == text


def test_a_reader_written_from_the_page_takes_the_passphrase() -> None:
    assert ktb2_mini.open_file(seal(b"text", WORDS), "passphrase", "Zu\u0308rich, correct horse") == b"text"


# Streams


@pytest.mark.parametrize("size", [0, 1, C - 1, C, C + 1, 2 * C - 1, 2 * C, 2 * C + 1])
def test_what_was_sealed_comes_out_and_nothing_more_is_stored(size: int) -> None:
    text = bytes(i % 251 for i in range(size))
    sealed = seal(text)
    assert open_bytes(sealed) == text
    assert len(sealed) == 32 + 108 + 32 + size + 16 * max(1, -(-size // C))


@pytest.mark.parametrize("plain_cut", [1, 100, C - 1, C, C + 1, 3 * C, 10 * C])
@pytest.mark.parametrize("sealed_cut", [1, 31, C, C + 16, 3 * (C + 16), 100_000])
def test_pieces_may_fall_anywhere(plain_cut: int, sealed_cut: int) -> None:
    text = bytes(i * 31 % 253 for i in range(5 * C + 7))
    codec = Ktb2Codec(seal_to=KEY, chunk_bytes=C)
    sealed = b"".join(codec.seal([b"", *cut(text, plain_cut), b""]))
    assert b"".join(codec.open(lambda: iter([b"", *cut(sealed, sealed_cut), b""]))) == text


def test_opening_needs_one_pass_and_ends_the_read_when_stopped() -> None:
    sealed = seal(bytes(5 * C))
    calls: list[str] = []

    def read() -> Iterator[bytes]:
        calls.append("begun")
        try:
            yield from cut(sealed, 1000)
        finally:
            calls.append("ended")

    codec = Ktb2Codec(open_with=KEY)
    assert len(b"".join(codec.open(read))) == 5 * C
    assert calls == ["begun", "ended"]
    opened = codec.open(read)
    next(opened)
    opened.close()  # type: ignore[attr-defined]
    assert calls == ["begun", "ended"] * 2


class Source:
    """A stream that is no generator, so that it ends only when it is told to."""

    def __init__(self, data: bytes) -> None:
        self._pieces = iter(cut(data, 3000))
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._pieces)

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("stop_early", [True, False])
def test_every_source_is_told_when_no_more_is_wanted(stop_early: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    sealed = seal(bytes(5 * C))
    codec = Ktb2Codec(seal_to=KEY, chunk_bytes=C)
    size = len(sealed)
    uses: list[Callable[[Source], Iterator[bytes]]] = [
        lambda source: codec.open(lambda: source),
        lambda source: rewrap(lambda: source, open_with=KEY, seal_to=WORDS, kdf=FLOOR),
        lambda source: codec.reader(_ranges(sealed, source), size).read(0, 5 * C),
    ]
    for use in uses:
        source = Source(sealed if use is not uses[2] else payload_of(sealed))
        stream = use(source)
        next(stream)
        assert not source.closed
        if stop_early:
            stream.close()  # type: ignore[attr-defined]
        else:
            list(stream)
        assert source.closed
    plain = Source(bytes(5 * C))
    sealing = codec.seal(plain)
    next(sealing)
    next(sealing)
    sealing.close()  # type: ignore[attr-defined]
    assert plain.closed
    header_only = Source(sealed)
    describe(lambda: header_only)
    assert header_only.closed


def _ranges(sealed: bytes, rest: Source) -> Callable[[int, int], Iterator[bytes]]:
    return lambda start, size: rest if start else iter([sealed[:size]])


def test_a_chunk_is_released_as_soon_as_what_follows_it_has_begun() -> None:
    sealed = seal(bytes(3 * C))
    header = len(sealed) - len(payload_of(sealed))
    taken: list[int] = []

    def read() -> Iterator[bytes]:
        for piece in (sealed[: header + C + 16], sealed[header + C + 16 :][:1], sealed[header + C + 17 :]):
            taken.append(len(piece))
            yield piece

    opened = Ktb2Codec(open_with=KEY).open(read)
    assert next(opened) == bytes(C)
    assert len(taken) == 2


def test_an_error_of_the_source_passes_through() -> None:
    def broken() -> Iterator[bytes]:
        yield bytes(C)
        raise TruncatedError("the source broke")

    sealing = Ktb2Codec(seal_to=KEY, chunk_bytes=C).seal(broken())
    next(sealing)
    with pytest.raises(TruncatedError, match="source broke"):
        list(sealing)


def test_both_ways_need_the_same_memory_for_any_size() -> None:
    piece = bytes(MIB)
    codec = Ktb2Codec(seal_to=KEY)

    def peak(work: Callable[[], Iterable[bytes]]) -> int:
        tracemalloc.start()
        for _ in work():
            pass
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    assert peak(lambda: codec.seal(piece for _ in range(48))) < 3 * DEFAULT_CHUNK_BYTES
    odd = memoryview(piece)[: MIB - 13]
    assert peak(lambda: codec.seal(bytes(odd) for _ in range(48))) < 3 * MIB
    assert peak(lambda: codec.open(lambda: codec.seal(piece for _ in range(48)))) < 6 * DEFAULT_CHUNK_BYTES


def test_one_codec_takes_a_fresh_file_key_for_every_file() -> None:
    codec = Ktb2Codec(seal_to=KEY, chunk_bytes=C)
    file_keys = set()
    for _ in range(20):
        data = b"".join(codec.seal([b"same"]))
        file_keys.add(ktb2_mini.unwrap_key(KEY.raw, data[8:24], data[36:140]))
    assert len(file_keys) == 20
    assert {len(file_key) for file_key in file_keys} == {32}


def test_no_two_files_share_a_key_an_id_or_a_slot() -> None:
    files = [seal(b"same", KEY, CURVE) for _ in range(50)]
    assert len({data[8:24] for data in files}) == 50
    assert len({data[32 + 12 : 32 + 28] for data in files}) == 50
    assert len({payload_of(data) for data in files}) == 50


def test_more_chunks_than_the_format_allows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _ktb2_payload.MAX_CHUNKS == 2**32
    fits, too_long = seal(bytes(2 * C)), seal(bytes(2 * C + 1))
    monkeypatch.setattr(_ktb2_payload, "MAX_CHUNKS", 2)
    with pytest.raises(ConfigurationError) as caught:
        seal(bytes(2 * C + 1))
    assert caught.value.kind == "payload_too_large"
    assert open_bytes(fits) == bytes(2 * C)
    with pytest.raises(UnsupportedFormatError) as refused:
        open_bytes(too_long)
    assert refused.value.kind == "payload_too_large"


# Keys


@pytest.mark.parametrize("key", ALL, ids=KINDS)
def test_each_of_several_keys_opens_alone(key: OpeningKey) -> None:
    assert open_bytes(seal(b"text", *ALL), key) == b"text"
    assert open_bytes(seal(b"text", key), *ALL) == b"text"


def test_a_host_with_public_keys_only_seals_for_three_people_and_opens_nothing() -> None:
    people = [PrivateKey.generate(), PrivateKey.generate("x25519"), PrivateKey.generate()]
    texts = [person.public_key.to_text() for person in people]
    codec = Ktb2Codec(seal_to=[PublicKey.from_text(text) for text in texts], chunk_bytes=C)
    sealed = b"".join(codec.seal([b"minutes of the meeting"]))
    for person in people:
        assert open_bytes(sealed, person) == b"minutes of the meeting"
    with pytest.raises(NoMatchingKeyError, match="only seals"):
        list(codec.open(lambda: iter([sealed])))
    shown = f"{codec!r}{vars(codec)}"
    assert not any(person.to_text() in shown or person.raw.hex() in shown for person in people)


def test_rewrapping_removes_a_recipient_and_leaves_the_payload_as_it_is() -> None:
    anna, ben, carla = (PrivateKey.generate(kind) for kind in ("mlkem768x25519", "x25519", "x25519"))
    text = bytes(range(256)) * 50
    old = seal(text, anna, ben, WORDS)
    new = b"".join(
        rewrap(lambda: iter(cut(old, 777)), open_with=anna, seal_to=[anna.public_key, carla.public_key, KEY])
    )
    stay: tuple[OpeningKey, ...] = (anna, carla, KEY)
    for key in stay:
        assert open_bytes(new, key) == text
    gone: tuple[OpeningKey, ...] = (ben, WORDS)
    for key in gone:
        with pytest.raises(NoMatchingKeyError):
            open_bytes(new, key)
    assert payload_of(new) == payload_of(old)
    assert new[:7] + new[8:24] == old[:7] + old[8:24]
    assert describe(lambda: iter([new])).file_id == describe(lambda: iter([old])).file_id
    # What the explanation warns of: the old file is as open as ever.
    assert open_bytes(old, ben) == text


def test_rewrapping_needs_a_key_that_opens_and_one_that_will() -> None:
    sealed = seal(b"text")
    with pytest.raises(NoMatchingKeyError):
        list(rewrap(lambda: iter([sealed]), open_with=EncryptionKey.generate(), seal_to=KEY))
    with pytest.raises(ConfigurationError) as caught:
        rewrap(lambda: iter([sealed]), open_with=KEY, seal_to=[])
    assert caught.value.kind == "no_recipient"
    with pytest.raises(TruncatedError):
        list(rewrap(lambda: iter([sealed[:-1], b""][1:]), open_with=KEY, seal_to=KEY))


def test_rewrapping_records_the_costs_it_was_told() -> None:
    sealed = seal(b"text")
    costs = Argon2Parameters(memory_kib=20 * 1024, iterations=3, lanes=2)
    new = b"".join(rewrap(lambda: iter([sealed]), open_with=KEY, seal_to=WORDS, kdf=costs))
    assert describe(lambda: iter([new])).slots[0].argon2 == (20 * 1024, 3, 2)
    assert open_bytes(new, WORDS) == b"text"


def test_describe_needs_no_key_and_only_the_header() -> None:
    sealed = seal(bytes(10 * C), KEY, WORDS, CURVE, HYBRID)
    taken: list[int] = []

    def read() -> Iterator[bytes]:
        for piece in cut(sealed, 200):
            taken.append(len(piece))
            yield piece

    found = describe(read)
    assert found.chunk_bytes == C
    assert sum(taken) < found.header_bytes + 200
    assert found.slots == (
        SlotInfo(kind="key", key_id=KEY.key_id),
        SlotInfo(kind="passphrase", argon2=(19 * 1024, 2, 1)),
        SlotInfo(kind="x25519", key_id=CURVE.key_id),
        SlotInfo(kind="mlkem768x25519", key_id=HYBRID.key_id),
    )


def test_key_check_says_which_keys_open_from_the_header_alone() -> None:
    sealed = seal(bytes(10 * C), KEY, WORDS, HYBRID)
    header = sealed[: describe(lambda: iter([sealed])).header_bytes]
    keys: list[OpeningKey] = [CURVE, HYBRID, EncryptionKey.generate(), Passphrase(text="another"), WORDS, KEY]
    assert key_check(lambda: iter([header]), keys) == (HYBRID, WORDS, KEY)
    assert key_check(lambda: iter([header]), CURVE) == ()
    with pytest.raises(TamperedError):
        key_check(lambda: iter([header[:-1] + bytes([header[-1] ^ 1])]), KEY)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "truncated"),
        (b"KT", "truncated"),
        (b"KTB1" + bytes(40), "bad_magic"),
        (b'{"a":1}', "bad_magic"),
        (b"KTB2\1\1\x0c\1" + bytes(23), "truncated"),
    ],
)
def test_what_is_no_ktb2_file_is_named(text: bytes, said: str) -> None:
    for use in (lambda: describe(lambda: iter([text])), lambda: open_bytes(text)):
        with pytest.raises(BackupError) as caught:
            use()
        assert caught.value.kind == said


# Construction


def test_the_spec_names_the_keys_that_have_ids() -> None:
    codec = Ktb2Codec(seal_to=[KEY, WORDS, HYBRID.public_key])
    assert codec.spec == CodecSpec(name="ktb2", key_ids=(KEY.key_id, HYBRID.key_id))
    assert codec.suffix == ".ktb2"
    assert Ktb2Codec(open_with=CURVE).spec.key_ids == (CURVE.key_id,)
    assert Ktb2Codec(seal_to=WORDS).spec.key_ids == ()


@pytest.mark.parametrize("key", ALL, ids=KINDS)
def test_an_archive_finds_the_codec_that_opens_it(key: OpeningKey) -> None:
    writer = Ktb2Codec(seal_to=[KEY, WORDS, CURVE.public_key, HYBRID.public_key], kdf=FLOOR, chunk_bytes=C)
    sealed = b"".join(writer.seal([b"text"]))
    codec = opener(writer.specs, Ktb2Codec(open_with=key), what="the archive")
    assert codec is not None
    assert b"".join(codec.open(lambda: iter([sealed]))) == b"text"


def test_a_codec_with_other_keys_is_not_asked() -> None:
    spec = CodecSpec(name="ktb2", key_ids=(KEY.key_id,))
    assert Ktb2Codec(open_with=CURVE).for_spec(spec) is None
    with pytest.raises(NoMatchingKeyError):
        opener([spec], Ktb2Codec(open_with=CURVE), what="the archive")
    for codec in (Ktb2Codec(open_with=[CURVE, WORDS]), Ktb2Codec(seal_to=CURVE.public_key), Ktb2Codec(open_with=KEY)):
        assert codec.for_spec(spec) is codec
        assert codec.for_spec(CodecSpec(name="ktb1", key_ids=(KEY.key_id,))) is None


def test_symmetric_keys_open_what_they_seal_unless_said_otherwise() -> None:
    codec = Ktb2Codec(seal_to=[KEY, CURVE.public_key])
    assert b"".join(codec.open(lambda: codec.seal([b"text"]))) == b"text"
    closed = Ktb2Codec(seal_to=KEY, open_with=[])
    with pytest.raises(NoMatchingKeyError):
        list(closed.open(lambda: closed.seal([b"text"])))


@pytest.mark.parametrize(
    ("sealed_to", "at_hand", "hint"),
    [
        (WORDS, Passphrase(text="other"), "another passphrase"),
        (KEY, WORDS, "use another key"),
        (WORDS, KEY, "use another key"),
        (CURVE, (KEY, WORDS), "use another key"),
        (KEY, (), "pass open_with="),
    ],
)
def test_what_to_try_next_fits_what_the_file_opens_with(sealed_to: OpeningKey, at_hand: OpeningKey, hint: str) -> None:
    sealed = seal(b"text", sealed_to)
    with pytest.raises(NoMatchingKeyError) as caught:
        list(Ktb2Codec(open_with=at_hand).open(lambda: iter([sealed])))
    assert hint in caught.value.hint


def test_nobody_to_seal_to_is_said_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Ktb2Codec(open_with=KEY).seal([])
    assert caught.value.kind == "no_recipient"


@pytest.mark.parametrize(
    "options",
    [
        {"seal_to": CURVE},
        {"seal_to": "kb-public-x25519:abc"},
        {"open_with": CURVE.public_key},
        {"open_with": [KEY, b"raw"]},
        {"seal_to": [EncryptionKey(raw=bytes([i]) * 32) for i in range(65)]},
        {"seal_to": [Passphrase(text=f"words {i}") for i in range(5)]},
        {"seal_to": None},
        {"seal_to": 5},
        {"open_with": 5},
        {"open_with": [bytearray(32)]},
    ],
)
def test_keys_of_the_wrong_half_and_too_many_are_refused(options: dict[str, SealingKey]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Ktb2Codec(**options)  # type: ignore[arg-type]
    assert caught.value.kind == "bad_recipient"
    assert CURVE.raw.hex() not in str(caught.value)


def test_64_keys_and_a_key_given_twice_are_fine() -> None:
    keys = [EncryptionKey(raw=bytes([i]) * 32) for i in range(64)]
    assert open_bytes(seal(b"text", *keys), keys[63]) == b"text"
    sealed = seal(b"text", KEY, KEY)
    assert len(describe(lambda: iter([sealed])).slots) == 1


@pytest.mark.parametrize("chunk_bytes", [0, 1, 2048, 4097, 1 << 25, -4096, "4096"])
def test_chunk_sizes_are_powers_of_two_within_bounds(chunk_bytes: int) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Ktb2Codec(seal_to=KEY, chunk_bytes=chunk_bytes)
    assert caught.value.kind == "bad_option"


@pytest.mark.parametrize("exponent", [12, 16, 20, 24])
def test_every_chunk_size_works(exponent: int) -> None:
    text = bytes((1 << exponent) + 1)
    assert open_bytes(seal(text, chunk_bytes=1 << exponent)) == text


@pytest.mark.parametrize(
    "options",
    [
        {"memory_kib": 19 * 1024 - 1},
        {"iterations": 1},
        {"lanes": 0},
        {"memory_kib": 1024 * 1024 + 1},
        {"iterations": 65},
        {"lanes": 17},
        {"memory_kib": 1024 * 1024, "iterations": 5},
    ],
)
def test_nobody_can_write_weaker_or_dearer_passphrase_slots(options: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Argon2Parameters(**options)
    assert caught.value.kind == "bad_option"


def test_the_default_costs_are_those_of_rfc_9106() -> None:
    sealed = b"".join(Ktb2Codec(seal_to=WORDS).seal([b"text"]))
    assert describe(lambda: iter([sealed])).slots[0].argon2 == (64 * 1024, 3, 4)
    assert open_bytes(sealed, WORDS) == b"text"


def test_secrets_are_in_no_repr() -> None:
    codec = Ktb2Codec(seal_to=[KEY, WORDS], open_with=[KEY, WORDS, CURVE, HYBRID])
    for secret in (KEY.raw, CURVE.raw, HYBRID.raw):
        assert secret.hex() not in repr(codec)
        assert repr(secret) not in repr(codec)
    assert "horse" not in repr(codec)
    file_key = FileKey(KEY.raw)
    assert KEY.raw.hex() not in repr(file_key)
    assert repr(KEY.raw) not in repr([file_key])
    assert CURVE.key_id in repr(codec)
