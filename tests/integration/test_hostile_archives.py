"""
A directory of archives from an attacker, who may create, replace and seal to public keys, but holds no secret.

Listing, verifying and reading either work or raise a `BackupError`, in bounded memory, and touch nothing outside.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import json
import lzma
import os
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from knowtation_backup.codecs.chain import CodecChain
from knowtation_backup.codecs.compression import Compression
from knowtation_backup.codecs.keys import PrivateKey
from knowtation_backup.codecs.ktb2 import Ktb2Codec
from knowtation_backup.contracts import ArchiveSink, Codec
from knowtation_backup.errors import BackupError, ConfigurationError, IntegrityError
from knowtation_backup.model.blobs import BlobRef
from knowtation_backup.model.manifest import Manifest, manifest_key
from knowtation_backup.model.plans import ArchiveInfo, ArchiveState
from knowtation_backup.model.reports import Sample, VerifyReport
from knowtation_backup.model.signatures import SignaturePolicy
from knowtation_backup.operations.backup import backup
from knowtation_backup.operations.catalog import list_archives
from knowtation_backup.operations.read import read, read_details, read_manifest
from knowtation_backup.operations.verify import verify
from knowtation_backup.operations.verify_all import verify_all
from knowtation_backup.sinks.fsspec import FsspecSink
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.sources import FakeSource

MOMENT = dt.datetime(2026, 4, 8, 15, 30, 22, tzinfo=dt.UTC)
SOURCE = FakeSource()
MIB = 1 << 20

Damage = Callable[[dict[str, Any]], object]


def made(codec: Codec | None = None, source: FakeSource = SOURCE) -> tuple[MemorySink, str]:
    sink = MemorySink()
    return sink, backup(source, sink, codec, clock=lambda: MOMENT).archive_id


def replace(sink: ArchiveSink, key: str, data: bytes) -> None:
    sink.delete(key)
    sink.put(key, [data])


def replace_blob(sink: MemorySink, archive_id: str, key: str, data: bytes) -> None:
    """Put other bytes under a key, and say so in the manifest."""
    manifest = Manifest.from_bytes(sink.contents()[manifest_key(archive_id)])
    ref = BlobRef(key=key, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    replace(sink, key, data)
    changed = (
        attrs.evolve(manifest, artifact=ref)
        if key == archive_id
        else attrs.evolve(manifest, side=tuple(ref if old.key == key else old for old in manifest.side))
    )
    replace(sink, manifest_key(archive_id), changed.to_bytes())


def attempt(function: Callable[[], Any]) -> Any:
    """Return what a call gives, or the error it may raise; anything else fails the test."""
    try:
        result = function()
        return list(result) if isinstance(result, Iterator) else result
    except BackupError as error:
        return error


def everything(sink: ArchiveSink, archive_id: str, codec: Codec | None = None) -> list[Any]:
    """What all readers make of an archive."""
    return [
        attempt(lambda: list_archives(sink)),
        attempt(lambda: verify(sink, archive_id, codec=codec)),
        attempt(lambda: verify(sink, archive_id, codec=codec, sample=Sample(part=1, of=2))),
        attempt(lambda: verify_all(sink, codec=codec)),
        attempt(lambda: read(sink, archive_id, codec)),
        attempt(lambda: read_details(sink, read_manifest(sink, archive_id), codec)),
        attempt(lambda: verify(sink, archive_id, codec=codec, policy=SignaturePolicy(unsigned="refuse"))),
    ]


def peak_of(function: Callable[[], Any]) -> tuple[Any, int]:
    """What a call gives, and how many bytes it held at most."""
    tracemalloc.start()
    try:
        return function(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def state_of(sink: ArchiveSink, archive_id: str) -> ArchiveState | None:
    return next((info.state for info in list_archives(sink) if info.archive_id == archive_id), None)


class TestManifests:
    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"\xff\xfe",
            b"null",
            b"[]",
            b'"text"',
            b"NaN",
            b"[" * 100_000,
            b'{"a":' * 100_000,
            b'{"format":' + b"9" * 5000 + b"}",
            b"{}" + b" " * (5 * MIB),
            b"[" + b"[]," * 100_000 + b"0]",
        ],
        ids=lambda text: f"{text[:8]!r}x{len(text)}",
    )
    def test_what_is_no_manifest_is_damaged(self, text: bytes) -> None:
        sink, archive_id = made()
        replace(sink, manifest_key(archive_id), text)
        results, peak = peak_of(lambda: everything(sink, archive_id))
        assert peak < 64 * MIB
        assert state_of(sink, archive_id) is ArchiveState.DAMAGED
        assert not results[1].ok
        assert isinstance(results[4], IntegrityError)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda m: m["artifact"].update(key="../secret"),
            lambda m: m["artifact"].update(key="/etc/passwd"),
            lambda m: m["artifact"].update(key="side/../../secret"),
            lambda m: m["artifact"].update(key="a\x00b"),
            lambda m: m["artifact"].update(key="a" * 10_000),
            lambda m: m["artifact"].update(key="C:\\secret"),
            lambda m: m["artifact"].update(key=["a"]),
            lambda m: m["artifact"].update(key="operator-full-export-20250101T000000Z.json"),
            lambda m: m["side"][0].update(key="operator-full-export-20250101T000000Z.json"),
            lambda m: m["side"][0].update(key="side/operator-full-export-20250101T000000Z.json/details.json"),
            lambda m: m["side"][0].update(key=m["artifact"]["key"]),
            lambda m: m["side"][0].update(key=f"side/{m['artifact']['key']}/../../secret"),
            lambda m: m.update(side=m["side"] * 2000),
            lambda m: m["artifact"].update(size_bytes=-1),
            lambda m: m["artifact"].update(size_bytes=True),
            lambda m: m["artifact"].update(size_bytes=1.5),
            lambda m: m["artifact"].update(sha256="0" * 63),
            lambda m: m["artifact"].update(sha256="G" * 64),
            lambda m: m.update(taken_at="2026-13-01T00:00:00Z"),
            lambda m: m.update(taken_at="9999-12-31T23:59:59-23:59"),
            lambda m: m.update(counts={"notes": 10**400}),
            lambda m: m.update(counts=[]),
            lambda m: m.update(codecs={"name": "ktb2"}),
            lambda m: m.update(codecs=[{"name": "ktb2", "key_ids": [1]}]),
            lambda m: m.update(tags=["../x"]),
            lambda m: m.update(kind=None),
            lambda m: m.update(format_version=10**400),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, damage: Damage) -> None:
        sink, archive_id = made()
        value = json.loads(sink.contents()[manifest_key(archive_id)])
        damage(value)
        replace(sink, manifest_key(archive_id), json.dumps(value).encode())
        before = sink.contents()
        results = everything(sink, archive_id)
        assert sink.contents() == before
        impossible_but_well_formed = value["counts"] == {"notes": 10**400}
        assert impossible_but_well_formed or isinstance(results[4], BackupError)
        assert not results[1].ok

    @pytest.mark.parametrize("size_bytes", [10**12, 2**63, 10**300])
    def test_declared_sizes_cost_nothing(self, size_bytes: int) -> None:
        sink, archive_id = made()
        for name in ("artifact", "side"):
            value = json.loads(sink.contents()[manifest_key(archive_id)])
            (value["side"][0] if name == "side" else value["artifact"])["size_bytes"] = size_bytes
            replace(sink, manifest_key(archive_id), json.dumps(value).encode())
            results, peak = peak_of(lambda: everything(sink, archive_id))
            assert peak < 8 * MIB
            assert "size_mismatch" in {finding.code for finding in results[1].findings}
            assert state_of(sink, archive_id) is ArchiveState.DAMAGED

    def test_of_repeated_names_one_counts_everywhere(self) -> None:
        """All readers use one parser, so nobody can be shown another manifest than was checked."""
        sink, archive_id = made()
        data = sink.contents()[manifest_key(archive_id)]
        replace(sink, manifest_key(archive_id), data[:-2] + b',"artifact":{"key":"../x"}}\n')
        assert isinstance(attempt(lambda: read_manifest(sink, archive_id)), BackupError)
        assert not verify(sink, archive_id).ok
        assert state_of(sink, archive_id) is ArchiveState.DAMAGED

    @pytest.mark.parametrize(
        "specs",
        [
            [{"name": "gzip", "key_ids": []}] * 500,
            [{"name": "ktb1", "key_ids": ["0" * 16]}],
            [{"name": "../../etc", "key_ids": []}],
            [{"name": "os", "key_ids": []}, {"name": "zstd", "key_ids": []}],
            [{"name": "ktb2", "key_ids": []}] * 1000,
        ],
    )
    def test_transforms_that_were_never_applied_end_in_our_errors(self, specs: list[dict[str, Any]]) -> None:
        sink, archive_id = made()
        value = json.loads(sink.contents()[manifest_key(archive_id)])
        value["codecs"] = specs
        replace(sink, manifest_key(archive_id), json.dumps(value).encode())
        results, peak = peak_of(lambda: everything(sink, archive_id, Ktb2Codec(open_with=RECIPIENT)))
        assert isinstance(results[4], BackupError)
        assert isinstance(results[1], BackupError) or not results[1].ok
        assert peak < 128 * MIB


RECIPIENT = PrivateKey.generate("x25519")
ATTACKER = Ktb2Codec(seal_to=RECIPIENT.public_key, open_with=())
"""Knows the public key only."""


def gzip_of(plain: Iterator[bytes]) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return b"".join([*map(packer.compress, plain), packer.flush()])


def xz_of(plain: Iterator[bytes]) -> bytes:
    packer = lzma.LZMACompressor(preset=0)
    return b"".join([*map(packer.compress, plain), packer.flush()])


def zstd_of(plain: Iterator[bytes]) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    packer = zstandard.ZstdCompressor(level=3).compressobj()
    return b"".join([*map(packer.compress, plain), packer.flush()])


def brotli_of(plain: Iterator[bytes]) -> bytes:
    brotli = pytest.importorskip("brotli")
    packer = brotli.Compressor(quality=4)
    return b"".join([*map(packer.process, plain), packer.finish()])


def zeros(mib: int) -> Iterator[bytes]:
    return (bytes(MIB) for _ in range(mib))


class TestBombs:
    @pytest.mark.parametrize(
        ("algorithm", "pack"), [("gzip", gzip_of), ("xz", xz_of), ("zstd", zstd_of), ("brotli", brotli_of)]
    )
    @pytest.mark.parametrize("name", ["artifact", "details"])
    def test_sealed_to_a_recipient_they_stay_small(
        self, algorithm: str, pack: Callable[[Iterator[bytes]], bytes], name: str
    ) -> None:
        chain = CodecChain(Compression(algorithm, threads=1), Ktb2Codec(seal_to=RECIPIENT.public_key))
        sink, archive_id = made(chain)
        key = archive_id if name == "artifact" else f"side/{archive_id}/details.json{chain.suffix}"
        sealed = b"".join(ATTACKER.seal([pack(zeros(100))]))
        replace_blob(sink, archive_id, key, sealed)
        ours = Ktb2Codec(open_with=RECIPIENT)
        report, peak = peak_of(lambda: verify(sink, archive_id, codec=ours))
        assert [finding.code for finding in report.findings] == ["decompression_limit"]
        # Details are kept while they grow, up to what any compressed blob may grow to; payloads are not.
        assert peak < (160 if name == "details" else 100) * MIB
        found = attempt(lambda: sum(map(len, read(sink, archive_id, ours))))
        assert name == "details" or found.kind == "decompression_limit"

    def test_details_of_very_many_values_are_not_decoded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("knowtation_backup.model.json_input.MAX_VALUES", 100_000)
        chain = CodecChain(Compression("gzip", threads=1), Ktb2Codec(seal_to=RECIPIENT.public_key))
        sink, archive_id = made(chain)
        dense = b'{"format":"knowtation-backup-details","format_version":1,"x":[' + b"{}," * 2_000_000 + b"0]}"
        sealed = b"".join(ATTACKER.seal([gzip_of(iter([dense]))]))
        replace_blob(sink, archive_id, f"side/{archive_id}/details.json{chain.suffix}", sealed)
        report, peak = peak_of(lambda: verify(sink, archive_id, codec=Ktb2Codec(open_with=RECIPIENT)))
        assert [finding.code for finding in report.findings] == ["details"]
        assert peak < 32 * MIB

    def test_a_payload_of_very_many_values_is_not_decoded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("knowtation_backup.model.json_input.MAX_VALUES", 50_000)
        head = b'{"format_version":4,"kind":"knowtation-operator-full-export","exported_at":"x","users":[],"x":['
        payload = head + b"{}," * 60_000 + b"0]}"
        source = attrs.evolve(SOURCE, kind="knowtation-operator-full-export", payload=(payload,), details={})
        sink, archive_id = made(source=source)
        report, peak = peak_of(lambda: verify(sink, archive_id))
        assert "payload_unreadable" in {finding.code for finding in report.findings}
        assert peak < 16 * MIB

    def test_a_container_that_asks_for_all_the_memory_is_refused(self) -> None:
        """Argon2 parameters, chunk sizes and slot counts come from the file."""
        sink, archive_id = made(Ktb2Codec(seal_to=RECIPIENT.public_key))
        good = sink.contents()[archive_id]
        ours = Ktb2Codec(open_with=RECIPIENT)
        for start, value in ((6, b"\x18"), (6, b"\xff"), (7, b"\xff"), (24, b"\xff\xff\xff\xff"), (32, b"\x02")):
            changed = good[:start] + value + good[start + len(value) :]
            replace_blob(sink, archive_id, archive_id, changed)
            results, peak = peak_of(lambda: everything(sink, archive_id, ours))
            assert peak < 48 * MIB
            assert isinstance(results[4], BackupError)

    def test_what_a_policy_refuses_is_not_even_opened(self) -> None:
        chain = CodecChain(Compression("gzip", threads=1), Ktb2Codec(seal_to=RECIPIENT.public_key))
        sink, archive_id = made(chain)
        sealed = b"".join(ATTACKER.seal([gzip_of(zeros(100))]))
        replace_blob(sink, archive_id, archive_id, sealed)
        policy = SignaturePolicy(unsigned="refuse")
        report, peak = peak_of(lambda: verify(sink, archive_id, codec=Ktb2Codec(open_with=RECIPIENT), policy=policy))
        assert [finding.code for finding in report.findings] == ["unsigned"]
        assert peak < 2 * MIB


class TestManyFiles:
    def test_very_many_blobs_beside_an_archive(self) -> None:
        sink, archive_id = made()
        for number in range(900):
            verb = ("pinned", "tagged", "noted", "trashed", "failed", "nonsense")[number % 6]
            sink.put(f"side/{archive_id}/marks/20260408T1530{number % 60:02d}000Z-{verb}-{number:08x}.json", [b"\xff["])
            sink.put(f"side/{archive_id}/x-{number}", [b"x"])
        results, peak = peak_of(lambda: everything(sink, archive_id))
        assert peak < 64 * MIB
        (info,) = results[0]
        assert isinstance(info, ArchiveInfo)
        assert {finding.code for finding in results[1].findings} == {"mark"}
        assert b"".join(results[4]) == b"".join(SOURCE.payload)

    def test_marks_that_are_large_or_nested_are_damaged(self) -> None:
        sink, archive_id = made()
        for number, data in enumerate((b"x" * (1 * MIB), b"[" * 60_000, b'{"a":' * 9000, b"9" * 6000)):
            sink.put(f"side/{archive_id}/marks/20260408T153022{number:03d}Z-noted-00000000.json", [data])
        results = everything(sink, archive_id)
        assert [finding.code for finding in results[1].findings] == ["mark"] * 4
        assert len(results[0][0].standing.damaged) == 4

    def test_names_that_are_no_archives_are_not_listed_as_ours(self) -> None:
        sink = MemorySink()
        for key in ("side/x/manifest.json", "side/a/b/c/manifest.json", "side/manifest.json", "manifest.json"):
            sink.put(key, [b"{}"])
        for number in range(500):
            sink.put(f"side/junk-{number}/manifest.json", [b"[" * 1000])
        assert [info for info in list_archives(sink) if info.managed and info.state is not ArchiveState.DAMAGED] == []
        assert verify_all(sink).failed == ()

    def test_a_marker_from_an_attacker_changes_no_other_series(self) -> None:
        sink, archive_id = made()
        for text in (b"\xff", b"[" * 50_000, b'{"source_id":["x"]}', b'{"source_id":"x\\u0000y"}', b"x" * MIB):
            replace(sink, f"side/{archive_id}/started.json", text)
            assert state_of(sink, archive_id) is ArchiveState.COMPLETE
            assert verify(sink, archive_id).ok


class TestLocalDirectories:
    @pytest.fixture
    def outside(self, tmp_path: Path) -> Path:
        """A secret beside the sink; no reader may show its bytes."""
        folder = tmp_path / "outside"
        folder.mkdir()
        (folder / "secret").write_bytes(b"do not show this")
        (folder / "manifest.json").write_bytes(b"{}")
        return folder

    @pytest.fixture
    def archive(self, tmp_path: Path) -> tuple[FsspecSink, Path, str]:
        sink = FsspecSink(str(tmp_path / "backups"))
        return sink, tmp_path / "backups", backup(SOURCE, sink, clock=lambda: MOMENT).archive_id

    def links(self, root: Path, outside: Path, archive_id: str) -> list[tuple[Path, Path]]:
        side = root / "side" / archive_id
        return [
            (root / archive_id, outside / "secret"),
            (side / "details.json", outside / "secret"),
            (side / "manifest.json", outside / "manifest.json"),
            (side / "marks", outside),
            (side, outside),
            (root / "side", outside),
        ]

    @pytest.mark.parametrize("number", range(6))
    def test_symbolic_links_lead_nowhere(
        self, archive: tuple[FsspecSink, Path, str], outside: Path, number: int, tmp_path: Path
    ) -> None:
        sink, root, archive_id = archive
        place, target = self.links(root, outside, archive_id)[number]
        if place.exists():
            place.rename(tmp_path / "moved")
        place.symlink_to(target)
        before = {path: path.read_bytes() for path in outside.iterdir()}
        results = everything(sink, archive_id)
        assert "do not show this" not in repr(results)
        assert {path: path.read_bytes() for path in outside.iterdir()} == before
        report = results[1]
        harmless = place.name == "marks"
        assert harmless or isinstance(report, BackupError) or (isinstance(report, VerifyReport) and not report.ok)

    def test_ids_that_lead_outside_are_refused(self, archive: tuple[FsspecSink, Path, str], outside: Path) -> None:
        sink, _, archive_id = archive
        for text in ("../outside/secret", f"../{outside.name}", str(outside), "..", "", "a/../../outside", "\x00"):
            for result in everything(sink, text)[1:2] + everything(sink, text)[4:]:
                assert isinstance(result, BackupError)
        assert isinstance(attempt(lambda: verify(sink, f"{archive_id}/../../outside")), ConfigurationError)

    def test_files_that_are_no_files_are_left_alone(
        self, archive: tuple[FsspecSink, Path, str], tmp_path: Path
    ) -> None:
        sink, root, archive_id = archive
        (root / archive_id).rename(tmp_path / "moved")
        os.mkfifo(root / archive_id)
        results = everything(sink, archive_id)
        assert isinstance(results[4], BackupError)
        assert isinstance(results[1], BackupError) or not results[1].ok


CHILD = """
import resource, sys
from knowtation_backup import Pipeline, FsspecSink
pipeline = Pipeline(sink=FsspecSink(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
report = pipeline.verify_all(record=False)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) >> 10, *sorted(finding.code for item in report.reports for finding in item.findings))
"""


def test_memory_of_the_process_stays_bounded(tmp_path: Path) -> None:
    """What decompressors written in C allocate is not seen by `tracemalloc`."""
    zstandard = pytest.importorskip("zstandard")
    wide = zstandard.ZstdCompressionParameters(window_log=27, compression_level=1, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    bombs = {
        "gzip": gzip_of(zeros(80)),
        "xz": xz_of(zeros(80)),
        "zstd": b"".join([*map(packer.compress, zeros(80)), packer.flush()]),
    }
    sink = FsspecSink(str(tmp_path / "backups"))
    for day, (algorithm, data) in enumerate(bombs.items()):
        moment = MOMENT + dt.timedelta(days=day)
        report = backup(SOURCE, sink, Compression(algorithm, threads=1), clock=functools.partial(max, moment, moment))
        manifest = report.manifest
        ref = BlobRef(key=manifest.archive_id, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        replace(sink, ref.key, data)
        replace(sink, manifest_key(ref.key), attrs.evolve(manifest, artifact=ref).to_bytes())
    done = subprocess.run(  # noqa: S603 - ourselves
        [sys.executable, "-c", CHILD, str(tmp_path / "backups")],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    grown_mib, *codes = done.stdout.split()
    assert codes == ["decompression_limit"] * 3
    assert int(grown_mib) < 300, "a window of 128 MiB, and what is under way"
