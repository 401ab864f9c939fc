"""Digests of files whose parts come in any order, from many threads."""

import hashlib
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from knowtation_backup.errors import InternalError
from knowtation_backup.model.canisters import SectionName, Slice, StoredChunk
from knowtation_backup.snapshots.file_digests import FileDigests

SIZE = 1000
SECTIONS = (SectionName.WASM_MEMORY, SectionName.STABLE_MEMORY)


def content(section: SectionName, size: int) -> bytes:
    return random.Random(section.value).randbytes(size)  # noqa: S311 - noise


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("at_hand", [True, False])
def test_any_order_gives_the_digest_of_the_file(seed: int, at_hand: bool) -> None:  # noqa: FBT001
    files = {section: content(section, 30 * SIZE + 17) for section in SECTIONS}
    busy = {section: threading.Lock() for section in SECTIONS}

    def read_into(part: Slice, room: memoryview) -> None:
        assert busy[part.section].acquire(blocking=False), "two threads read the same file"
        room[:] = files[part.section][part.offset : part.offset + part.size_bytes]
        busy[part.section].release()

    parts = [
        Slice(section, offset, min(SIZE, len(data) - offset))
        for section, data in files.items()
        for offset in range(0, len(data), SIZE)
    ]
    random.Random(seed).shuffle(parts)  # noqa: S311 - an order
    digests = FileDigests(read_into)

    def add(part: Slice) -> None:
        data = files[part.section][part.offset : part.offset + part.size_bytes]
        digests.add(part, data if at_hand else None)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, parts))
    assert digests.hexdigests() == {
        f"{section.value}.bin": hashlib.sha256(data).hexdigest() for section, data in files.items()
    }


def test_a_stored_chunk_is_known_by_its_name() -> None:
    digests = FileDigests()
    digests.add(StoredChunk(b"\x07" * 32), b"not looked at")
    assert list(digests.hexdigests().values()) == ["07" * 32]


def test_a_file_without_parts_is_empty() -> None:
    digests = FileDigests()
    digests.add(Slice(SectionName.WASM_MEMORY, 0, 1), b"a")
    digests.note_empty("wasm_memory.bin")
    digests.note_empty("stable_memory.bin")
    found = digests.hexdigests()
    assert found["wasm_memory.bin"] == hashlib.sha256(b"a").hexdigest()
    assert found["stable_memory.bin"] == hashlib.sha256().hexdigest()
    assert digests.as_text().startswith(f"{hashlib.sha256().hexdigest()}  stable_memory.bin\n")


def test_parts_out_of_order_need_a_way_to_read_them_again() -> None:
    digests = FileDigests()
    digests.add(Slice(SectionName.WASM_MEMORY, 1, 1), b"b")
    with pytest.raises(InternalError):
        digests.add(Slice(SectionName.WASM_MEMORY, 0, 1), b"a")  # then the other one, which cannot be read again
