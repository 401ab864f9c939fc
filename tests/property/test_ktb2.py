"""Laws of KTB2: whatever goes in comes out, wherever it is cut; whatever else is opened is refused in our words."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ktb2_mini import File

from knowtation_backup.codecs._frames import frames
from knowtation_backup.codecs._ktb2_header import parse_header
from knowtation_backup.codecs.keys import EncryptionKey, PrivateKey
from knowtation_backup.codecs.ktb2 import Ktb2Codec, describe, key_check, rewrap
from knowtation_backup.errors import BackupError

KEY = EncryptionKey(raw=bytes(range(32)))
CURVE = PrivateKey(kind="x25519", raw=bytes(range(1, 33)))
C = 4096
CODEC = Ktb2Codec(seal_to=[KEY, CURVE.public_key], chunk_bytes=C)
PATTERN = bytes(i * 31 % 253 for i in range(6 * C))

sizes = st.one_of(
    st.integers(0, 40),
    st.builds(lambda chunks, off: max(0, chunks * C + off), st.integers(1, 4), st.integers(-2, 2)),
    st.integers(0, 5 * C),
)
cuts = st.lists(st.one_of(st.integers(0, 50), st.integers(C - 20, C + 20), st.integers(0, 3 * C)), max_size=12)


def cut(data: bytes, lengths: list[int]) -> list[bytes]:
    """Cut *data* into pieces of these lengths; the rest is one more."""
    pieces, at = [], 0
    for length in lengths:
        pieces.append(data[at : at + length])
        at += length
    return [*pieces, data[at:]]


@given(size=sizes, plain_cuts=cuts, sealed_cuts=cuts)
def test_round_trips_in_any_pieces(size: int, plain_cuts: list[int], sealed_cuts: list[int]) -> None:
    text = PATTERN[:size]
    sealed = b"".join(CODEC.seal(cut(text, plain_cuts)))
    opened = list(CODEC.open(lambda: iter(cut(sealed, sealed_cuts))))
    assert b"".join(opened) == text
    assert all(opened)
    assert {len(piece) for piece in opened[:-1]} <= {C}
    assert b"".join(Ktb2Codec(open_with=CURVE).open(lambda: iter(cut(sealed, sealed_cuts)))) == text


@given(size=sizes, lengths=cuts, frame=st.integers(1, 2 * C))
def test_frames_are_the_stream_in_equal_parts(size: int, lengths: list[int], frame: int) -> None:
    data = PATTERN[:size]
    found = [(bytes(view), last) for view, last in frames(cut(data, lengths), frame)]
    assert b"".join(view for view, _ in found) == data
    assert [last for _, last in found] == [False] * (len(found) - 1) + [True]
    assert {len(view) for view, _ in found[:-1]} <= {frame}
    assert found[-1][0] or not data


@given(size=sizes, start=st.integers(0, 6 * C), length=st.integers(0, 6 * C))
def test_random_access_is_a_slice(size: int, start: int, length: int) -> None:
    text = PATTERN[:size]
    sealed = b"".join(CODEC.seal([text]))
    parts = CODEC.open_range(lambda at, n: iter([sealed[at : at + n]]), len(sealed), start=start, length=length)
    assert b"".join(parts) == text[start : start + length]


@given(size=sizes, lengths=cuts)
def test_rewrapping_keeps_the_payload(size: int, lengths: list[int]) -> None:
    text = PATTERN[:size]
    old = b"".join(CODEC.seal([text]))
    other = EncryptionKey(raw=bytes(32))
    new = b"".join(rewrap(lambda: iter(cut(old, lengths)), open_with=KEY, seal_to=other))
    headers = [describe(lambda data=data: iter([data])).header_bytes for data in (old, new)]  # type: ignore[misc]
    assert old[headers[0] :] == new[headers[1] :]
    assert b"".join(Ktb2Codec(open_with=other).open(lambda: iter([new]))) == text


preambles = st.builds(
    lambda exponent, count, total: (
        b"KTB2\1\1" + bytes([exponent, count]) + bytes(16) + total.to_bytes(4, "big") + bytes(4)
    ),
    st.integers(10, 26),
    st.integers(0, 70),
    st.one_of(st.integers(0, 600), st.integers(0, 0xFFFFFFFF)),
)
slots = st.builds(
    lambda kind, body: bytes([kind, 0]) + len(body).to_bytes(2, "big") + body,
    st.sampled_from([1, 2, 3, 4, 255]),
    st.one_of(
        st.binary(max_size=120),
        st.binary(min_size=104, max_size=104),
        st.binary(min_size=108, max_size=108),
        st.binary(min_size=88, max_size=88).map(lambda rest: b"\0\x20\0\1\0\2" + rest),
    ),
)


@given(
    st.one_of(st.binary(max_size=400), st.builds(lambda head, rest: head + rest, preambles, st.binary(max_size=700)))
)
def test_arbitrary_bytes_are_refused_in_our_words(data: bytes) -> None:
    for use in (
        lambda: parse_header(data),
        lambda: describe(lambda: iter([data])),
        lambda: key_check(lambda: iter([data]), [KEY, CURVE]),
    ):
        with contextlib.suppress(BackupError):  # and anything else fails the test
            use()
    with pytest.raises(BackupError):
        list(CODEC.open(lambda: iter([data])))
    with pytest.raises(BackupError):
        CODEC.reader(lambda at, n: iter([data[at : at + n]]), len(data))


@given(st.lists(slots, max_size=6), st.binary(max_size=100))
def test_well_formed_headers_of_nonsense_never_open(bodies: list[bytes], rest: bytes) -> None:
    file = File(file_key=bytes(32), file_id=bytes(16), slots=bodies)
    with pytest.raises(BackupError) as caught:
        list(CODEC.open(lambda: iter([file.header() + rest])))
    assert caught.value.kind in {"bad_header", "no_matching_key"}


@given(size=sizes, position=st.integers(0, 1 << 20), change=st.integers(1, 255))
def test_a_changed_byte_never_releases_more_than_verified_chunks(size: int, position: int, change: int) -> None:
    text = PATTERN[:size]
    sealed = bytearray(b"".join(CODEC.seal([text])))
    sealed[position % len(sealed)] ^= change
    pieces: list[bytes] = []
    with pytest.raises(BackupError):
        pieces.extend(CODEC.open(lambda: iter([bytes(sealed)])))
    assert text.startswith(b"".join(pieces))
    assert {len(piece) for piece in pieces} <= {C}
