"""
The snapshot directories and exports that the repository's benchmark backs up: always the same bytes, of any size.

A version is a directory as ``icp canister snapshot download`` writes one: ``metadata.json``, a Wasm module of 2 MB, 64
MiB of heap and 512 MiB of stable memory. What memory holds, by region, as it lies in a real canister:

========  ==========  ======  ====================================================================================
kind      stable      heap    what
========  ==========  ======  ====================================================================================
zero      25 %        10 %    pages never touched, or given back
text      45 %        40 %    notes as JSON, one after another (`_repository_text`); 30 % is left after ``zstd -3``
random    30 %        20 %    what was compressed or encrypted before: pictures, attachments, sealed secrets
objects   -           30 %    four-byte words of a garbage-collected heap: tags, lengths, pointers; half is left
========  ==========  ======  ====================================================================================

Regions have 4 to 1,024 pages (16 KiB to 4 MiB, small ones as often as large ones) and begin on a page. Nothing
repeats: no page occurs twice, except zeros.

``v2`` is ``v1`` with 1 % of all pages of 4 KiB, drawn at random without replacement from the whole image, holding
something else from end to end, of the kind the page had; a page of zeros that is drawn comes into use, and then holds
text or random bytes as often as the image does. So neither is the change all random, nor are only some bytes of a page
touched. The module is the same. ``v3`` is ``v2`` with 5 % changed likewise and 32 MiB of the same mixture appended to
stable memory.

``python benchmarks/_repository_data.py FOLDER [--scale N] [--days N]`` writes the three versions, ``N`` times smaller,
and export files (`_repository_exports`).
"""

from __future__ import annotations

import argparse
import array
import itertools
import math
import os
import random
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from pathlib import Path
from typing import Literal

import attrs

from _repository_text import notes_stream
from knowtation_backup.model.canisters import GlobalKind, GlobalValue, SnapshotMetadata
from knowtation_backup.snapshots.metadata import metadata_json

PAGE = 4096
MIB = 1 << 20
FIRST_MTIME = 1_700_000_000
"""Versions are a day apart from here on: some peers look at times before they look at bytes."""

Kind = Literal["zero", "text", "random", "objects"]
_STABLE: Mapping[Kind, float] = {"zero": 0.25, "text": 0.45, "random": 0.30}
_HEAP: Mapping[Kind, float] = {"zero": 0.10, "text": 0.40, "random": 0.20, "objects": 0.30}
_SMALLEST_REGION = 4
_LARGEST_REGION = 1024
_AHEAD = 8
_CODE = 200


@attrs.frozen(kw_only=True)
class Shape:
    """How large everything is."""

    module_bytes: int = 2_000_000
    heap_bytes: int = 64 * MIB
    stable_bytes: int = 512 * MIB
    appended_bytes: int = 32 * MIB
    """How much stable memory grows in ``v3``."""

    def divided(self, scale: int) -> Shape:
        """Return everything *scale* times smaller, in whole Wasm pages."""
        return Shape(
            module_bytes=self.module_bytes // scale,
            heap_bytes=self.heap_bytes // scale >> 16 << 16,
            stable_bytes=self.stable_bytes // scale >> 16 << 16,
            appended_bytes=self.appended_bytes // scale >> 16 << 16,
        )


@attrs.frozen
class _Region:
    kind: Kind
    pages: int


def _layout(pages: int, mixture: Mapping[Kind, float], seed: str) -> list[_Region]:
    """Return regions that together have the shares of *mixture*: a kind that is behind is likelier to come next."""
    chance = random.Random(f"layout {seed}")  # noqa: S311 - filler
    found: list[_Region] = []
    had = dict.fromkeys(mixture, 0)
    done = 0
    while done < pages:
        length = round(_SMALLEST_REGION * (_LARGEST_REGION / _SMALLEST_REGION) ** chance.random())
        length = min(length, pages - done)
        behind = [max(share * (done + length) - had[kind], 0) for kind, share in mixture.items()]
        kind = chance.choices([*mixture], behind)[0]
        found.append(_Region(kind, length))
        had[kind] += length
        done += length
    return found


def _objects(chance: random.Random, size_bytes: int) -> bytes:
    """Return words as a garbage-collected heap has them: tag, length, then fields that point nearby or are small."""
    words = array.array("I")
    here = chance.randrange(1 << 20, 1 << 25) & ~7
    while len(words) * 4 < size_bytes:
        fields = chance.choices((2, 3, 4, 6, 12), (30, 30, 20, 15, 5))[0]
        at = here + len(words) * 4
        words.extend((chance.choices((5, 7, 1, 17, 9), (50, 20, 15, 10, 5))[0], fields))
        for pick in chance.choices((0, 1, 2, 3), (45, 25, 20, 10), k=fields):
            if pick == 0:
                words.append(at - 4 * chance.randrange(1, 4000) + 1)
            elif pick == 1:
                words.append(2 * chance.randrange(64))
            elif pick == 2:
                words.append(here - 8 * chance.randrange(30) + 1)
            else:
                words.append(chance.getrandbits(31))
    return words.tobytes()[:size_bytes]


def _content(kind: Kind, seed: str, size_bytes: int) -> bytes:
    """Return what a region or a page holds."""
    chance = random.Random(seed)  # noqa: S311 - filler
    if kind == "zero":
        return bytes(size_bytes)
    if kind == "random":
        return chance.randbytes(size_bytes)
    if kind == "objects":
        return _objects(chance, size_bytes)
    parts = []
    size = -(cut := chance.randrange(1500))  # a page may begin anywhere in a note
    for note in notes_stream(chance):
        parts.append(note)
        size += len(note)
        if size >= size_bytes:
            return b"".join(parts)[cut : cut + size_bytes]
    raise AssertionError


def _image(executor: Executor, pages: int, mixture: Mapping[Kind, float], seed: str) -> Iterator[bytes]:
    """Yield the regions of a new image; a few are made ahead."""
    waiting: list[Future[bytes]] = []
    for number, region in enumerate(_layout(pages, mixture, seed)):
        waiting.append(executor.submit(_content, region.kind, f"{seed} {number}", region.pages * PAGE))
        if len(waiting) > _AHEAD:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()


def _changed(executor: Executor, base: Path, mixture: Mapping[Kind, float], seed: str, share: float) -> Iterator[bytes]:
    """Yield an image with *share* of its pages holding something else; *seed* is that of the first version."""
    pages = base.stat().st_size // PAGE
    chance = random.Random(f"change {seed} {share}")  # noqa: S311 - filler
    chosen = sorted(chance.sample(range(pages), round(pages * share)))
    used: dict[Kind, float] = {kind: weight for kind, weight in mixture.items() if kind != "zero"}
    ends = _kind_ends(base, mixture, seed)
    jobs: list[tuple[int, Kind]] = []
    for place in chosen:
        while place >= ends[0][0]:
            ends.pop(0)
        kind = ends[0][1]
        if kind == "zero":
            kind = chance.choices([*used], [*used.values()])[0]
        jobs.append((place, kind))
    with base.open("rb") as file:
        at = 0
        for (place, _), page in zip(jobs, _pages(executor, jobs, f"{seed} {share}"), strict=True):
            for start in range(at, place * PAGE, MIB):
                yield file.read(min(MIB, place * PAGE - start))
            file.seek(PAGE, os.SEEK_CUR)
            yield page
            at = (place + 1) * PAGE
        while block := file.read(MIB):
            yield block


def _pages(executor: Executor, jobs: list[tuple[int, Kind]], seed: str) -> Iterator[bytes]:
    """Make the new pages, a hundred in a job, so that the other process is not asked for each."""
    for first in range(0, len(jobs), 100 * _AHEAD):
        groups = [jobs[start : start + 100] for start in range(first, min(first + 100 * _AHEAD, len(jobs)), 100)]
        for made in executor.map(_some_pages, groups, itertools.repeat(seed)):
            yield from made


def _some_pages(jobs: list[tuple[int, Kind]], seed: str) -> list[bytes]:
    return [_content(kind, f"{seed} page {place}", PAGE) for place, kind in jobs]


def _kind_ends(base: Path, mixture: Mapping[Kind, float], seed: str) -> list[tuple[int, Kind]]:
    """Return where each region of the first version ends."""
    ends: list[tuple[int, Kind]] = []
    done = 0
    total = base.stat().st_size // PAGE
    for region in _layout(total, mixture, seed):
        done += region.pages
        ends.append((done, region.kind))
    return ends


def _leb(number: int) -> bytes:
    """Return an unsigned number as Wasm writes it."""
    found = bytearray()
    while number >= 128:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def _module(size_bytes: int) -> bytes:
    """
    Return bytes like those of a compiled module: the idioms of a compiler with numbers between them, then texts.

    ``zstd -3`` leaves 44 %; of the hub it is 32 %. No interpreter would run it.
    """
    chance = random.Random("module")  # noqa: S311 - filler
    opcodes = bytes([0x20, 0x21, 0x22, 0x41, 0x6A, 0x28, 0x36, 0x10, 0x0D, 0x0B, 0x02, 0x04, 0x46, 0x45, 0x71, 0x1A])
    idioms = [bytes(chance.choices(opcodes, k=chance.randint(2, 7))) for _ in range(_CODE)]
    totals = [math.log(number + 2) for number in range(_CODE)]
    parts = [b"\0asm\x01\0\0\0"]
    size = 8
    while size < size_bytes * 0.9:
        for idiom in chance.choices(idioms, cum_weights=totals, k=100):
            number = chance.choices(
                (chance.randrange(12), chance.randrange(300), chance.randrange(1 << 20)), (80, 15, 5)
            )[0]
            parts += (idiom, _leb(number))
            size += len(idiom) + len(parts[-1])
    for text in notes_stream(chance):
        parts.append(text)
        size += len(text)
        if size >= size_bytes:
            return b"".join(parts)[:size_bytes]
    raise AssertionError


def _write(path: Path, blocks: Iterator[bytes], mtime: int) -> None:
    with path.open("wb") as file:
        for block in blocks:
            file.write(block)
    os.utime(path, (mtime, mtime))


def write_version(directory: Path, shape: Shape, *, version: int, base: Path | None = None) -> None:
    """
    Write version 1, 2 or 3 of a snapshot directory; 2 and 3 need the one before as *base*.

    Memory: some 30 MB in this process and its workers, whatever the sizes.
    """
    directory.mkdir(parents=True)
    mtime = FIRST_MTIME + 86_400 * version
    grown = shape.appended_bytes if version == 3 else 0
    share = {1: 0.0, 2: 0.01, 3: 0.05}[version]
    with ProcessPoolExecutor(os.cpu_count()) as executor:
        _write(directory / "wasm_module.bin", iter((_module(shape.module_bytes),)), mtime)
        for name, mixture, size in (
            ("wasm_memory", _HEAP, shape.heap_bytes),
            ("stable_memory", _STABLE, shape.stable_bytes),
        ):
            if base is None:
                blocks = _image(executor, size // PAGE, mixture, name)
            else:
                blocks = _changed(executor, base / f"{name}.bin", mixture, name, share)
            if grown and name == "stable_memory":
                blocks = itertools.chain(blocks, _image(executor, grown // PAGE, mixture, f"{name} grown"))
            _write(directory / f"{name}.bin", blocks, mtime)
    metadata = SnapshotMetadata(
        wasm_module_size=shape.module_bytes,
        wasm_memory_size=shape.heap_bytes,
        stable_memory_size=shape.stable_bytes + grown,
        globals=(
            GlobalValue(kind=GlobalKind.I32, bits=65_536),
            GlobalValue(kind=GlobalKind.I32, bits=shape.heap_bytes - 4096 * version),
            GlobalValue(kind=GlobalKind.I64, bits=version),
        ),
        certified_data=bytes(range(32)),
        taken_at_ns=mtime * 10**9,
        canister_version=10 + version,
        source="taken_from_canister",
        global_timer="inactive",
        on_low_wasm_memory_hook_status="condition_not_satisfied",
    )
    _write(directory / "metadata.json", iter((metadata_json(metadata),)), mtime)


def write_versions(folder: Path, shape: Shape) -> list[Path]:
    """Write ``v1``, ``v2`` and ``v3`` into *folder* and return them; those already there stay as they are."""
    found: list[Path] = []
    for version in (1, 2, 3):
        directory = folder / f"v{version}"
        if not (directory / "metadata.json").exists():  # it is written last
            print(f"making {directory}", file=sys.stderr, flush=True)
            write_version(directory, shape, version=version, base=found[-1] if found else None)
        found.append(directory)
    return found


def main() -> None:
    """Write the data, for a look at it or for other measurements."""
    from _repository_exports import Hub  # noqa: PLC0415 - the one program that needs both

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=int, default=1, help="everything this many times smaller")
    parser.add_argument("--days", type=int, default=1, help="export files after the first one")
    arguments = parser.parse_args()
    write_versions(arguments.folder, Shape().divided(arguments.scale))
    hub = Hub(users=2000 // arguments.scale)
    path = hub.write_first(arguments.folder / "export-day-00.json")
    for day in range(1, arguments.days + 1):
        path = hub.write_next_day(path, arguments.folder / f"export-day-{day:02d}.json")


if __name__ == "__main__":
    main()
