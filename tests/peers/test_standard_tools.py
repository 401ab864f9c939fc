"""
The standard programs open what we compress, and we open what they compress (FMT-11, FMT-12).

Needs the programs gzip, zstd, brotli and xz.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from knowtation_backup import CodecSpec, Compression, ExportReader, UnwrapLimits
from knowtation_backup.errors import BackupError

pytestmark = pytest.mark.peers

PROGRAMS = {"gzip": "gzip", "zstd": "zstd", "auto": "zstd", "brotli": "brotli", "xz": "xz"}
MIB = 1 << 20
FILLER = random.Random(9)  # noqa: S311 - filler
WORDS = [f"{number:x}" for number in FILLER.sample(range(1 << 24), 2000)]
TEXT = " ".join(FILLER.choices(WORDS, k=700_000)).encode()
DATA = {
    "nothing": b"",
    "text": TEXT,
    "noise in text": TEXT[: 2 * MIB] + FILLER.randbytes(2 * MIB) + TEXT[: 2 * MIB],
    "zeros": bytes(20 * MIB),
}


@pytest.fixture(params=PROGRAMS)
def algorithm(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if shutil.which(PROGRAMS[name]) is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"the program {PROGRAMS[name]} is not installed")
    return name


def run(algorithm: str, *arguments: str, data: bytes) -> bytes:
    program = PROGRAMS[algorithm]
    done = subprocess.run(  # noqa: S603 - the peer under test
        [program, "-c", *arguments], input=data, capture_output=True, timeout=120, check=True
    )
    return done.stdout


def pieces(data: bytes) -> Iterator[bytes]:
    return (data[start : start + 70_001] for start in range(0, len(data), 70_001))


@pytest.mark.parametrize("name", DATA)
def test_the_program_opens_ours(algorithm: str, name: str) -> None:
    stored = b"".join(Compression(algorithm, level=1).seal(pieces(DATA[name])))
    assert run(algorithm, "-d", data=stored) == DATA[name]


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("level", ["-1", "-9"])
def test_we_open_the_programs(algorithm: str, name: str, level: str) -> None:
    data = DATA[name] if algorithm not in {"brotli", "xz"} else DATA[name][MIB : 3 * MIB]
    stored = run(algorithm, level, data=data)
    codec = Compression(algorithm, limits=UnwrapLimits(ratio=10_000))
    assert b"".join(codec.open(lambda: pieces(stored))) == data


@pytest.mark.parametrize("algorithm", ["gzip", "zstd", "auto", "xz"], indirect=True)
def test_ours_and_the_programs_joined_are_one_file(algorithm: str) -> None:
    codec = Compression(algorithm, level=1)
    ours = b"".join(codec.seal(pieces(TEXT[:MIB])))
    joined = ours + run(algorithm, data=TEXT[:MIB]) + ours
    assert b"".join(codec.open(lambda: pieces(joined))) == TEXT[:MIB] * 3
    assert run(algorithm, "-d", data=joined) == TEXT[:MIB] * 3


def test_both_refuse_what_is_cut(algorithm: str) -> None:
    codec = Compression(algorithm, level=1)
    stored = b"".join(codec.seal(pieces(TEXT[:MIB])))[:-3]
    with pytest.raises(BackupError):
        list(codec.open(lambda: pieces(stored)))
    with pytest.raises(subprocess.CalledProcessError):
        run(algorithm, "-d", data=stored)


@pytest.mark.parametrize("algorithm", ["zstd", "xz"], indirect=True)
def test_what_a_programs_several_threads_make_opens(algorithm: str) -> None:
    stored = run(algorithm, "-T2", "-1", data=TEXT)
    assert b"".join(Compression(algorithm).open(lambda: pieces(stored))) == TEXT


def test_a_file_compressed_by_name_is_read_as_an_export(algorithm: str, tmp_path: Path) -> None:
    payload = b'{"format_version":4,"kind":"knowtation-operator-full-export","exported_at":"x","users":[]}'
    path = tmp_path / "export.json"
    path.write_bytes(payload)
    subprocess.run([PROGRAMS[algorithm], "-k", str(path)], check=True, capture_output=True, timeout=60)  # noqa: S603
    stored = (tmp_path / f"export.json{Compression(algorithm).suffix}").read_bytes()
    reader = ExportReader([stored]).read_all()
    assert reader.header is not None
    assert Compression(algorithm).specs == (CodecSpec(name=PROGRAMS[algorithm]),)
