"""Values of canisters and snapshots: what there is to transfer, each part once; times to the nanosecond."""

from __future__ import annotations

import datetime as dt
import itertools
import pickle

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowtation_backup.model.canisters import (
    CHUNK_BYTES,
    CanisterSettings,
    CanisterStatus,
    GlobalKind,
    GlobalValue,
    RunState,
    SectionName,
    Slice,
    Snapshot,
    SnapshotMetadata,
    StoredChunk,
    moment_of,
)
from knowtation_backup.model.ids import ANONYMOUS, Principal, SnapshotId

SIZES = st.integers(0, 30_000)
TINY = SnapshotMetadata(wasm_module_size=0, wasm_memory_size=0, stable_memory_size=0)


@given(
    st.tuples(SIZES, SIZES, SIZES),
    st.lists(st.binary(min_size=32, max_size=32), max_size=4, unique=True),
    st.integers(100, 10_000),
)
def test_every_byte_is_in_one_part_and_in_order(
    sizes: tuple[int, int, int], chunks: list[bytes], chunk_bytes: int
) -> None:
    metadata = SnapshotMetadata(
        wasm_module_size=sizes[0],
        wasm_memory_size=sizes[1],
        stable_memory_size=sizes[2],
        wasm_chunk_store=tuple(chunks),
    )
    parts = list(metadata.parts(chunk_bytes=chunk_bytes))
    slices = [part for part in parts if isinstance(part, Slice)]
    assert parts[len(slices) :] == [StoredChunk(sha256) for sha256 in chunks]
    assert [name for name, _ in itertools.groupby(part.section for part in slices)] == [
        section for section, size in zip(SectionName, sizes, strict=True) if size
    ]
    for section, size in zip(SectionName, sizes, strict=True):
        end = 0
        for part in slices:
            if part.section is section:
                assert part.offset == end
                assert 0 < part.size_bytes <= chunk_bytes
                end += part.size_bytes
                assert part.size_bytes == chunk_bytes or end == size  # only the last is shorter
        assert end == size == metadata.section_size(section)
    assert metadata.size_bytes == sum(sizes) == sum(part.size_bytes for part in slices)


def test_parts_are_what_one_call_reads_unless_said_otherwise() -> None:
    metadata = attrs.evolve(TINY, stable_memory_size=2 * CHUNK_BYTES + 1)
    stable = SectionName.STABLE_MEMORY
    assert list(metadata.parts()) == [
        Slice(stable, 0, CHUNK_BYTES),
        Slice(stable, CHUNK_BYTES, CHUNK_BYTES),
        Slice(stable, 2 * CHUNK_BYTES, 1),
    ]
    assert CHUNK_BYTES == 2_000_000


def test_an_empty_snapshot_has_no_parts() -> None:
    assert (list(TINY.parts()), TINY.size_bytes) == ([], 0)


def test_parts_are_made_one_by_one() -> None:
    endless = attrs.evolve(TINY, stable_memory_size=1 << 60)
    assert next(iter(endless.parts())) == Slice(SectionName.STABLE_MEMORY, 0, CHUNK_BYTES)


def test_parts_name_themselves() -> None:
    assert str(Slice(SectionName.WASM_MEMORY, 4, 2)) == "wasm_memory from 4 (2 bytes)"
    assert str(StoredChunk(b"\xab" * 32)) == "Wasm chunk " + "ab" * 32


def test_parts_are_keys() -> None:
    one, other = Slice(SectionName.WASM_MEMORY, 4, 2), Slice(SectionName.STABLE_MEMORY, 4, 2)
    assert len({one, other, Slice(SectionName.WASM_MEMORY, 4, 2), StoredChunk(b"a"), StoredChunk(b"a")}) == 3


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00+00:00"),
        (999, "1970-01-01T00:00:00+00:00"),
        (1_700_000_000_123_456_999, "2023-11-14T22:13:20.123456+00:00"),
    ],
)
def test_moments_are_rounded_down(nanoseconds: int, text: str) -> None:
    assert moment_of(nanoseconds).isoformat() == text


def test_a_snapshot_tells_when_it_was_taken_twice() -> None:
    snapshot = Snapshot(snapshot_id=SnapshotId(b"x"), taken_at_ns=1_700_000_000_123_456_999, size_bytes=1)
    assert snapshot.taken_at == dt.datetime(2023, 11, 14, 22, 13, 20, 123456, dt.UTC)
    assert snapshot.taken_at_ns % 1000 == 999


def test_globals_are_compared_by_their_bits() -> None:
    assert GlobalValue(GlobalKind.F32, 0x7FC00000) == GlobalValue(GlobalKind.F32, 0x7FC00000)
    assert GlobalValue(GlobalKind.F32, 0x80000000) != GlobalValue(GlobalKind.F32, 0)
    assert GlobalValue(GlobalKind.I64, 1) != GlobalValue(GlobalKind.V128, 1)


def test_values_survive_pickle() -> None:
    status = CanisterStatus(
        canister_id=Principal(b"\x01"),
        run_state=RunState.STOPPED,
        settings=CanisterSettings(controllers=(ANONYMOUS,), values={"log_visibility": "public"}),
        cycles=1 << 100,
        memory_size_bytes=1,
        module_hash=None,
        certified=True,
    )
    metadata = attrs.evolve(TINY, globals=(GlobalValue(GlobalKind.V128, 5), None), global_timer="inactive")
    assert pickle.loads(pickle.dumps((status, metadata))) == (status, metadata)  # noqa: S301 - our own


def test_defaults_are_not_shared() -> None:
    assert CanisterSettings().values is not CanisterSettings().values
