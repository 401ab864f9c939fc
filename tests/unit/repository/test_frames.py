"""Files of frames: they open as they were sealed, and in no other order, number, kind or repository."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowtation_backup.errors import (
    DecryptionError,
    IntegrityError,
    InternalError,
    NoMatchingKeyError,
    TamperedError,
    TruncatedError,
)
from knowtation_backup.repository.frames import (
    MAX_CONTENT_BYTES,
    Compressor,
    FileHead,
    FileKind,
    content_of,
    open_file,
    open_frame,
    parse_head,
    seal_small,
    split_frames,
)
from knowtation_backup.repository.keys import ReadKeys

KEYS = ReadKeys.generate()
WRITER = KEYS.writer_key
CONTENTS = [b"first" * 100, b"", b"third"]

kinds = pytest.mark.parametrize("kind", list(FileKind))


@given(st.lists(st.binary(max_size=500), min_size=1, max_size=5), st.sampled_from(FileKind))
def test_files_open_as_they_were_sealed(contents: list[bytes], kind: FileKind) -> None:
    assert list(open_file(kind, seal_small(kind, WRITER, contents), KEYS)) == contents


@given(st.binary(max_size=2000), st.integers(1, 19))
def test_bodies_unpack_to_what_was_packed(content: bytes, level: int) -> None:
    body = Compressor(level).body(content)
    assert content_of(body) == content
    assert len(body) <= len(content) + 1


def test_the_largest_content_comes_back() -> None:
    content = bytes(MAX_CONTENT_BYTES)
    assert list(open_file(FileKind.PACK, seal_small(FileKind.PACK, WRITER, [content]), KEYS)) == [content]
    with pytest.raises(InternalError):
        seal_small(FileKind.PACK, WRITER, [content + b"."])


@kinds
def test_every_file_has_a_key_of_its_own(kind: FileKind) -> None:
    first, second = (seal_small(kind, WRITER, CONTENTS) for _ in range(2))
    heads = [parse_head(kind, data, KEYS) for data in (first, second)]
    assert heads[0].stored != heads[1].stored
    frames = split_frames(heads[1], memoryview(second))
    with pytest.raises(TamperedError):
        open_frame(heads[0], frames[0], memoryview(second))


@kinds
def test_a_writer_key_opens_what_is_no_content(kind: FileKind) -> None:
    stored = seal_small(kind, WRITER, CONTENTS)
    if kind.is_content:
        with pytest.raises(NoMatchingKeyError):
            list(open_file(kind, stored, WRITER))
    else:
        assert list(open_file(kind, stored, WRITER)) == CONTENTS


@kinds
def test_frames_can_neither_be_exchanged_nor_dropped_nor_repeated(kind: FileKind) -> None:
    stored = seal_small(kind, WRITER, [b"one", b"two", b"three"])
    head = parse_head(kind, stored, KEYS)
    parts = [stored[frame.offset : frame.offset + frame.length] for frame in split_frames(head, memoryview(stored))]
    wrong_orders: tuple[list[int], ...] = ([1, 0, 2], [0, 2], [0, 1], [1, 2], [0, 0, 1, 2], [0, 1, 2, 2], [2], [])
    for order in wrong_orders:
        with pytest.raises((DecryptionError, TruncatedError)):
            list(open_file(kind, head.stored + b"".join(parts[n] for n in order), KEYS))


@kinds
def test_every_byte_counts(kind: FileKind) -> None:
    stored = seal_small(kind, WRITER, [b"one", b"two"])
    step = max(1, len(stored) // 150)
    for at in (*range(12), *range(12, len(stored), step), len(stored) - 1):
        changed = stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 :]
        with pytest.raises((IntegrityError, DecryptionError)):
            list(open_file(kind, changed, KEYS))
    for end in range(0, len(stored), step):
        with pytest.raises((IntegrityError, DecryptionError)):
            list(open_file(kind, stored[:end], KEYS))


@kinds
def test_files_are_bound_to_kind_and_repository(kind: FileKind) -> None:
    stored = seal_small(kind, WRITER, CONTENTS)
    for other in FileKind:
        if other is not kind:
            with pytest.raises(IntegrityError):
                list(open_file(other, stored, KEYS))
            renamed = stored[:4] + bytes([other]) + stored[5:]
            with pytest.raises((IntegrityError, DecryptionError)):
                list(open_file(other, renamed, KEYS))
    elsewhere = attrs.evolve(KEYS, repository_id=bytes(16))
    with pytest.raises(DecryptionError):
        list(open_file(kind, stored, elsewhere))


def test_older_packs_open_after_a_rotation_and_newer_ones_not_before() -> None:
    rotated = KEYS.rotated()
    older = seal_small(FileKind.PACK, WRITER, CONTENTS)
    newer = seal_small(FileKind.PACK, rotated.writer_key, CONTENTS)
    assert list(open_file(FileKind.PACK, older, rotated)) == CONTENTS
    assert list(open_file(FileKind.PACK, newer, rotated)) == CONTENTS
    with pytest.raises(NoMatchingKeyError, match="generation 2"):
        list(open_file(FileKind.PACK, newer, KEYS))


def test_the_last_frame_is_known_as_such() -> None:
    head = FileHead.new(FileKind.INDEX, WRITER)
    body = Compressor().body(b"content")
    sealed = head.seal(0, body, last=True)[4:]
    assert head.open(0, sealed) == body
    assert head.open(0, sealed, last=True) == body
    with pytest.raises(TamperedError):
        head.open(0, sealed, last=False)


def test_what_no_reader_takes_is_not_written() -> None:
    assert len(Compressor().body(bytes(MAX_CONTENT_BYTES))) < 10_000
    with pytest.raises(InternalError):
        Compressor().body(bytes(MAX_CONTENT_BYTES + 1))
