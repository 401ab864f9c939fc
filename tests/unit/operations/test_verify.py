"""Verifying: every kind of damage has its finding, and what is no damage is raised."""

import datetime as dt
import functools
import hashlib
import json
import secrets
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import attrs
import pytest

from knowtation_backup.codecs.chain import CodecChain
from knowtation_backup.codecs.compression import Compression
from knowtation_backup.codecs.keys import EncryptionKey, Passphrase
from knowtation_backup.codecs.ktb1 import Ktb1Codec
from knowtation_backup.codecs.ktb2 import Argon2Parameters, Ktb2Codec
from knowtation_backup.contracts import ArchiveSink, Codec, EncryptionCodec
from knowtation_backup.errors import (
    BlobNotFoundError,
    ConfigurationError,
    IntegrityError,
    NoMatchingKeyError,
    SinkUnavailableError,
)
from knowtation_backup.model.blobs import BlobInfo, BlobRef
from knowtation_backup.model.events import Event
from knowtation_backup.model.manifest import Manifest, manifest_key
from knowtation_backup.model.marks import MarkVerb
from knowtation_backup.model.reports import (
    Coverage,
    Finding,
    Outcome,
    Sample,
    SideFile,
    VerifyLevel,
    VerifyReport,
)
from knowtation_backup.operations.backup import backup
from knowtation_backup.operations.marks import list_marks, pin, read_marks, read_standing
from knowtation_backup.operations.sampling import is_in_part
from knowtation_backup.operations.verify import verify
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.faults import FaultMoment, FaultSink
from knowtation_backup.testing.sources import FakeSource

MOMENT = dt.datetime(2026, 4, 8, 15, 30, 22, tzinfo=dt.UTC)
KEY = EncryptionKey.generate()
SEALED = Ktb1Codec(KEY)
SOURCE = FakeSource(side_files=(SideFile(name="raw-0001.txt", content=b"not json"),))
CODECS = pytest.mark.parametrize("codec", [None, SEALED], ids=["plain", "sealed"])


def make(codec: Codec | None, source: FakeSource = SOURCE) -> tuple[MemorySink, str]:
    sink = MemorySink()
    return sink, backup(source, sink, codec, clock=lambda: MOMENT).archive_id


def replace(sink: MemorySink, key: str, data: bytes) -> None:
    sink.delete(key)
    sink.put(key, [data])


def check(sink: ArchiveSink, archive_id: str, codec: Codec | None, **options: Any) -> VerifyReport:
    return verify(sink, archive_id, codec=codec, clock=lambda: MOMENT, **options)


def found(report: VerifyReport) -> list[tuple[str, str]]:
    return [(finding.code, finding.where.rpartition("/")[2]) for finding in report.findings]


def edit_manifest(sink: MemorySink, archive_id: str, **changes: Any) -> None:
    manifest = Manifest.from_bytes(sink.contents()[manifest_key(archive_id)])
    replace(sink, manifest_key(archive_id), attrs.evolve(manifest, **changes).to_bytes())


@CODECS
@pytest.mark.parametrize("level", list(VerifyLevel))
def test_a_good_archive_has_no_findings(codec: EncryptionCodec | None, level: VerifyLevel) -> None:
    sink, archive_id = make(codec)
    events: list[Event] = []
    report = check(sink, archive_id, codec, level=level, observer=events.append)
    assert report.findings == ()
    assert report.outcome is Outcome.OK
    assert report.verified_at == MOMENT
    everything = sum(map(len, sink.contents().values())) - len(sink.contents()[f"side/{archive_id}/started.json"])
    manifest_bytes = len(sink.contents()[manifest_key(archive_id)])
    assert report.bytes_read == (everything if level is VerifyLevel.CONTENT else manifest_bytes)
    assert [event.name for event in events] == ["verify.finished"]


@CODECS
def test_every_flipped_bit_of_every_blob_is_found(codec: EncryptionCodec | None) -> None:
    sink, archive_id = make(codec)
    for key, data in sink.contents().items():
        if key.endswith(("manifest.json", "started.json")):
            continue
        for position in range(len(data)):
            changed = bytearray(data)
            changed[position] ^= 1 << position % 8
            replace(sink, key, bytes(changed))
            report = check(sink, archive_id, codec)
            assert found(report) == [("digest_mismatch", key.rpartition("/")[2])], (key, position)
            assert check(sink, archive_id, codec, level=VerifyLevel.PRESENCE).ok, "sizes cannot show it"
        replace(sink, key, data)
    assert check(sink, archive_id, codec).ok


@CODECS
def test_every_cut_of_every_blob_is_found_without_reading_it(codec: EncryptionCodec | None) -> None:
    sink, archive_id = make(codec)
    for key, data in sink.contents().items():
        if key.endswith(("manifest.json", "started.json")):
            continue
        for size in range(len(data)):
            replace(sink, key, data[:size])
            for level in (VerifyLevel.PRESENCE, VerifyLevel.CONTENT):
                report = check(sink, archive_id, codec, level=level)
                assert found(report) == [("size_mismatch", key.rpartition("/")[2])]
        replace(sink, key, data + b"x")
        assert found(check(sink, archive_id, codec)) == [("size_mismatch", key.rpartition("/")[2])]
        sink.delete(key)
        assert found(check(sink, archive_id, codec)) == [("blob_not_found", key.rpartition("/")[2])]
        sink.put(key, [data])


@CODECS
def test_every_changed_byte_of_the_manifest_is_found_or_harmless(codec: EncryptionCodec | None) -> None:
    sink, archive_id = make(codec)
    data = sink.contents()[manifest_key(archive_id)]
    manifest = Manifest.from_bytes(data)
    missed = 0
    for position in range(len(data) - 1):
        changed = bytearray(data)
        changed[position] ^= 2
        replace(sink, manifest_key(archive_id), bytes(changed))
        try:
            report = check(sink, archive_id, codec)
        except NoMatchingKeyError:
            continue  # the key id was changed: the error names both
        if report.ok:
            missed += 1
            read = Manifest.from_bytes(bytes(changed))
            # Only what nothing else says may differ: when writing ended, by what, and the hint which key to try.
            own: dict[str, Any] = {"finished_at": read.finished_at, "generator": read.generator, "codecs": read.codecs}
            assert attrs.evolve(manifest, **own) == attrs.evolve(read, extra={}), position
    assert missed < 60


def test_several_faults_are_all_found() -> None:
    sink, archive_id = make(SEALED)
    stored = sink.contents()
    replace(sink, archive_id, stored[archive_id][:-1])
    details = f"side/{archive_id}/details.json.enc"
    replace(sink, details, stored[details][:-1] + bytes([stored[details][-1] ^ 1]))
    sink.delete(f"side/{archive_id}/raw-0001.txt.enc")
    report = check(sink, archive_id, SEALED)
    assert sorted(found(report)) == [
        ("blob_not_found", "raw-0001.txt.enc"),
        ("digest_mismatch", "details.json.enc"),
        ("size_mismatch", archive_id),
    ]
    assert report.outcome is Outcome.DIFFERENT
    assert report.exit_code == 4
    with pytest.raises(IntegrityError, match="3 finding"):
        report.raise_for_findings()


@CODECS
def test_exchanged_artifacts_are_found_even_with_their_digests(codec: EncryptionCodec | None) -> None:
    """Somebody who can write the store moves an old payload under a new name and corrects the clear manifest."""
    sink, archive_id = make(codec)
    other, other_id = make(codec, attrs.evolve(SOURCE, payload=(b'{"an":"older payload"}',)))
    replace(sink, archive_id, other.contents()[other_id])
    theirs = Manifest.from_bytes(other.contents()[manifest_key(other_id)])
    edit_manifest(sink, archive_id, artifact=attrs.evolve(theirs.artifact, key=archive_id))
    assert check(sink, archive_id, codec, level=VerifyLevel.PRESENCE).ok
    assert found(check(sink, archive_id, codec)) == [("payload_digest", "payload")]


def test_a_whole_archive_under_the_name_of_another_is_found() -> None:
    sink, archive_id = make(SEALED)
    later_sink = MemorySink()
    later_id = backup(SOURCE, later_sink, SEALED, clock=lambda: MOMENT + dt.timedelta(days=1)).archive_id
    manifest = Manifest.from_bytes(sink.contents()[manifest_key(archive_id)])
    renamed = attrs.evolve(
        manifest,
        artifact=attrs.evolve(manifest.artifact, key=later_id),
        side=tuple(attrs.evolve(ref, key=ref.key.replace(archive_id, later_id)) for ref in manifest.side),
        taken_at=MOMENT + dt.timedelta(days=1),
    )
    forged = MemorySink()
    for key, data in sink.contents().items():
        if not key.endswith("manifest.json"):
            forged.put(key.replace(archive_id, later_id), [data])
    forged.put(manifest_key(later_id), [renamed.to_bytes()])
    report = check(forged, later_id, SEALED)
    assert found(report) == [
        ("manifest_contradicted", "manifest.artifact"),
        ("manifest_contradicted", "manifest.taken_at"),
    ]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"complete": False}, "complete"),
        ({"counts": {"tenants": 1, "notes": 3}}, "counts"),
        ({"kind": "other"}, "kind"),
        ({"source_id": "other"}, "source_id"),
        ({"taken_at": MOMENT + dt.timedelta(seconds=1)}, "taken_at"),
    ],
)
def test_a_manifest_that_contradicts_the_sealed_details_is_found(changes: dict[str, Any], field: str) -> None:
    sink, archive_id = make(SEALED)
    edit_manifest(sink, archive_id, **changes)
    assert found(check(sink, archive_id, SEALED)) == [("manifest_contradicted", f"manifest.{field}")]


def test_a_manifest_without_details_is_found() -> None:
    sink, archive_id = make(SEALED)
    edit_manifest(sink, archive_id, side=())
    assert found(check(sink, archive_id, SEALED)) == [("details_missing", "details.json.enc")]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"format":"knowtation-backup-details","format_version":2}'])
def test_details_that_cannot_be_read_are_found(content: bytes) -> None:
    sink, archive_id = make(SEALED)
    key = f"side/{archive_id}/details.json.enc"
    sealed = b"".join(SEALED.seal([content]))
    replace(sink, key, sealed)
    manifest = Manifest.from_bytes(sink.contents()[manifest_key(archive_id)])
    forged = BlobRef(key=key, size_bytes=len(sealed), sha256=hashlib.sha256(sealed).hexdigest())
    edit_manifest(sink, archive_id, side=(forged, *manifest.side[1:]))
    report = check(sink, archive_id, SEALED)
    assert [where for _, where in found(report)] == ["details.json.enc"]


def test_impossibly_large_details_are_not_read() -> None:
    sink, archive_id = make(SEALED)
    manifest = Manifest.from_bytes(sink.contents()[manifest_key(archive_id)])
    edit_manifest(sink, archive_id, side=(attrs.evolve(manifest.side[0], size_bytes=1 << 40), *manifest.side[1:]))
    report = check(sink, archive_id, SEALED)
    assert ("size_mismatch", "details.json.enc") in found(report)


def test_sealed_bytes_that_are_as_written_but_do_not_open_are_found() -> None:
    sink, archive_id = make(Ktb1Codec(EncryptionKey.generate()))
    edit_manifest(sink, archive_id, codecs=(SEALED.spec,))  # the manifest names a key the bytes were not sealed with
    assert {code for code, _ in found(check(sink, archive_id, SEALED))} == {"tampered"}


def test_an_unknown_transformation_is_found() -> None:
    sink, archive_id = make(SEALED)
    edit_manifest(sink, archive_id, codecs=(attrs.evolve(SEALED.spec, name="ktb9"),))
    assert found(check(sink, archive_id, SEALED)) == [("other_codec", "manifest.json")]


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b'{"format":"knowtation-backup-archive","format_version":2}'])
def test_an_unreadable_manifest_is_a_finding(data: bytes) -> None:
    sink, archive_id = make(SEALED)
    replace(sink, manifest_key(archive_id), data)
    report = check(sink, archive_id, SEALED, level=VerifyLevel.STRUCTURE)
    assert [where for _, where in found(report)] == ["manifest.json"]


def test_an_unfinished_archive_is_a_finding_and_an_unknown_one_an_error() -> None:
    sink, archive_id = make(SEALED)
    sink.delete(manifest_key(archive_id))
    assert found(check(sink, archive_id, SEALED)) == [("manifest_missing", "manifest.json")]
    sink.delete(archive_id)
    assert found(check(sink, archive_id, SEALED)) == [("manifest_missing", "manifest.json")]
    with pytest.raises(BlobNotFoundError, match="no finished archive nothing"):
        check(sink, "nothing", SEALED)
    with pytest.raises(ConfigurationError):
        check(sink, "../etc", SEALED)


def test_the_wrong_key_is_an_error_that_names_both() -> None:
    sink, archive_id = make(SEALED)
    other = Ktb1Codec(EncryptionKey.generate())
    with pytest.raises(NoMatchingKeyError) as caught:
        check(sink, archive_id, other)
    assert SEALED.spec.key_ids[0] in str(caught.value)
    assert other.spec.key_ids[0] in str(caught.value)
    with pytest.raises(NoMatchingKeyError, match="no key was given"):
        check(sink, archive_id, None)
    assert check(sink, archive_id, None, level=VerifyLevel.PRESENCE).ok, "presence needs no key"


@CODECS
@pytest.mark.parametrize("moment", list(FaultMoment))
def test_an_unreachable_store_is_never_a_finding(codec: EncryptionCodec | None, moment: FaultMoment) -> None:
    inner, archive_id = make(codec)
    counting = FaultSink(inner)
    assert verify(counting, archive_id, codec=codec).ok
    for number in range(len(counting.operations)):
        with pytest.raises(SinkUnavailableError):
            verify(FaultSink(inner, fail_at=number, moment=moment), archive_id, codec=codec)


class TestPayloadCheckers:
    @staticmethod
    def run(
        checker: Callable[[Iterable[bytes], Mapping[str, Any]], Iterable[Finding]],
        damage: Callable[[bytes], bytes] = bytes,
    ) -> list[tuple[str, str]]:
        sink, archive_id = make(SEALED)
        replace(sink, archive_id, damage(sink.contents()[archive_id]))
        return found(check(sink, archive_id, SEALED, payload_checker=checker))

    def test_they_see_payload_and_facts(self) -> None:
        seen: list[Any] = []

        def checker(chunks: Iterable[bytes], facts: Mapping[str, Any]) -> list[Finding]:
            seen.extend([b"".join(chunks), facts])
            return [Finding(code="odd", where="here", message="really")]

        assert self.run(checker) == [("odd", "here")]
        payload, facts = seen
        assert payload == b"".join(SOURCE.payload)
        assert facts["payload_size_bytes"] == len(payload)
        assert facts["tenants"] == [{"user_id": "google:1"}]
        assert facts["counts"] == {"tenants": 1, "notes": 2}

    def test_they_may_stop_early_and_the_rest_is_still_checked(self) -> None:
        def lazy(_chunks: Iterable[bytes], _facts: Mapping[str, Any]) -> list[Finding]:
            return []

        assert self.run(lazy) == []
        assert self.run(lazy, lambda data: data[:-1] + bytes([data[-1] ^ 1])) == [
            ("digest_mismatch", "operator-full-export-20260408T153022Z.json.enc")
        ]

    def test_what_they_raise_about_the_bytes_is_a_finding(self) -> None:
        def strict(_chunks: Iterable[bytes], _facts: Mapping[str, Any]) -> list[Finding]:
            raise IntegrityError("no JSON at all", kind="bad_payload")

        assert self.run(strict) == [("bad_payload", "operator-full-export-20260408T153022Z.json.enc")]

    def test_what_they_make_of_a_broken_stream_is_not_reported(self) -> None:
        def swallowing(chunks: Iterable[bytes], _facts: Mapping[str, Any]) -> list[Finding]:
            try:
                list(chunks)
            except IntegrityError:
                return [Finding(code="nonsense", where="x", message="x")]
            return []

        assert self.run(swallowing, lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:]) == [
            ("digest_mismatch", "operator-full-export-20260408T153022Z.json.enc")
        ]

    def test_knowtation_payloads_are_parsed_by_default(self) -> None:
        payload = json.dumps({"format_version": 4, "kind": "knowtation-operator-full-export", "users": "none"}).encode()
        source = attrs.evolve(SOURCE, kind="knowtation-operator-full-export", payload=(payload,), details={})
        sink, archive_id = make(SEALED, source)
        codes = {code for code, _ in found(check(sink, archive_id, SEALED))}
        assert codes == {"payload_unreadable"}


def test_findings_of_sealed_content_do_not_reach_observers() -> None:
    sink, archive_id = make(SEALED)

    def checker(_chunks: Iterable[bytes], _facts: Mapping[str, Any]) -> list[Finding]:
        return [Finding(code="odd", where="google:1/secret path", message="tenant text")]

    events: list[Event] = []
    check(sink, archive_id, SEALED, payload_checker=checker, observer=events.append)
    assert [event.name for event in events] == ["verify.finding", "verify.finished"]
    assert "tenant text" not in repr(events)
    assert "secret path" not in repr(events)


FAST_KEY = EncryptionKey.generate()
CHUNKED = Ktb2Codec(seal_to=FAST_KEY, chunk_bytes=4096)
LARGE = attrs.evolve(SOURCE, payload=tuple(bytes([number]) * 3000 for number in range(50)))
CHAINS = pytest.mark.parametrize(
    "chain",
    [
        Compression("gzip"),
        Compression("zstd", threads=1),
        Compression("xz", threads=1),
        CHUNKED,
        CodecChain(Compression("gzip"), CHUNKED),
        CodecChain(Compression("gzip"), SEALED),
    ],
    ids=["gzip", "zstd", "xz", "ktb2", "gzip+ktb2", "gzip+ktb1"],
)


@CHAINS
def test_every_chain_verifies_and_its_damage_is_found(chain: Codec) -> None:
    sink = MemorySink()
    archive_id = backup(LARGE, sink, chain, clock=lambda: MOMENT).archive_id
    report = verify(sink, archive_id, codec=chain)
    assert report.ok
    assert report.covered is Coverage.WHOLE
    for key, data in sink.contents().items():
        if key.endswith(("manifest.json", "started.json")):
            continue
        for position in {0, len(data) // 2, len(data) - 1}:
            changed = bytearray(data)
            changed[position] ^= 1
            replace(sink, key, bytes(changed))
            assert found(verify(sink, archive_id, codec=chain)) == [("digest_mismatch", key.rpartition("/")[2])]
        replace(sink, key, data)


def compressed_bomb(sink: MemorySink, archive_id: str, name: str, plain_bytes: int) -> None:
    """Put a blob of zeros in place of one of an archive that was only compressed, and correct the manifest."""
    packer = zlib.compressobj(9, wbits=31)
    parts = [packer.compress(bytes(1 << 20)) for _ in range(plain_bytes >> 20)]
    data = b"".join([*parts, packer.flush()])
    manifest = Manifest.from_bytes(sink.contents()[manifest_key(archive_id)])
    refs = {ref.key.rpartition("/")[2]: ref for ref in (manifest.artifact, *manifest.side)}
    ref = refs[name or archive_id]
    forged = attrs.evolve(ref, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    replace(sink, ref.key, data)
    if name:
        edit_manifest(sink, archive_id, side=tuple(forged if old == ref else old for old in manifest.side))
    else:
        edit_manifest(sink, archive_id, artifact=forged)


@pytest.mark.parametrize("name", ["", "details.json.gz", "raw-0001.txt.gz"])
def test_bombs_are_findings_and_not_memory(name: str) -> None:
    sink = MemorySink()
    archive_id = backup(SOURCE, sink, Compression("gzip"), clock=lambda: MOMENT).archive_id
    compressed_bomb(sink, archive_id, name, 100 << 20)
    tracemalloc.start()
    report = verify(sink, archive_id)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found(report) == [("decompression_limit", name or archive_id)]
    limit = 200 << 20 if name.startswith("details") else 16 << 20  # details are kept, up to the limit
    assert peak < limit


def test_details_that_open_to_too_much_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("knowtation_backup.operations.verify.MAX_DETAILS_BYTES", 1 << 20)
    sink = MemorySink()
    archive_id = backup(SOURCE, sink, Compression("gzip"), clock=lambda: MOMENT).archive_id
    compressed_bomb(sink, archive_id, "details.json.gz", 50 << 20)
    assert found(verify(sink, archive_id)) == [("details_too_large", "details.json.gz")]


class TestSamples:
    @staticmethod
    def run(sink: MemorySink, archive_id: str, codec: Codec, of: int) -> list[VerifyReport]:
        return [
            verify(sink, archive_id, codec=codec, sample=Sample(part=part, of=of), record=True, clock=lambda: MOMENT)
            for part in range(1, of + 1)
        ]

    @pytest.mark.parametrize("codec", [CHUNKED, CodecChain(Compression("gzip", level=1), CHUNKED)], ids=["", "gzip"])
    @pytest.mark.parametrize("of", [2, 7, 20])
    def test_all_parts_together_find_every_changed_chunk(self, codec: Codec, of: int) -> None:
        source = attrs.evolve(LARGE, payload=(secrets.token_bytes(60_000),))
        sink = MemorySink()
        archive_id = backup(source, sink, codec, clock=lambda: MOMENT).archive_id
        data = sink.contents()[archive_id]
        for report in self.run(sink, archive_id, codec, of):
            assert report.ok
            assert report.covered is Coverage.PART
            assert report.bytes_read < len(data)
        for position in range(0, len(data), 4096):
            changed = bytearray(data)
            changed[position] ^= 1
            replace(sink, archive_id, bytes(changed))
            parts = [
                verify(sink, archive_id, codec=codec, sample=Sample(part=part, of=of)) for part in range(1, of + 1)
            ]
            assert any(not report.ok for report in parts), position

    def test_the_details_are_compared_in_every_part(self) -> None:
        sink = MemorySink()
        archive_id = backup(LARGE, sink, CHUNKED, clock=lambda: MOMENT).archive_id
        edit_manifest(sink, archive_id, complete=False)
        for report in self.run(sink, archive_id, CHUNKED, 3):
            assert found(report) == [("manifest_contradicted", "manifest.complete")]

    @CODECS
    def test_what_can_only_be_read_whole_is_read_in_one_part(self, codec: EncryptionCodec | None) -> None:
        sink = MemorySink()
        moments = [MOMENT + dt.timedelta(days=day) for day in range(12)]
        ids = [
            backup(SOURCE, sink, codec, clock=functools.partial(min, moment, moment)).archive_id for moment in moments
        ]
        covered = []
        for archive_id in ids:
            reports = [
                verify(sink, archive_id, codec=codec, sample=Sample(part=part, of=4), record=True)
                for part in (1, 2, 3, 4)
            ]
            assert all(report.ok for report in reports)
            assert sorted(report.covered.value for report in reports) == ["none", "none", "none", "whole"]
            covered += [report.sample.part for report in reports if report.covered is Coverage.WHOLE and report.sample]
            marks = Counter(mark.name.verb for mark in read_marks(sink, archive_id))
            assert marks == {MarkVerb.CHECKED: 3, MarkVerb.VERIFIED: 1}
        assert len(set(covered)) > 1, "archives are spread over the parts"

    def test_reports_say_what_was_not_read(self) -> None:
        sink, archive_id = make(SEALED)
        texts = [str(report) for report in self.run(sink, archive_id, SEALED, 5)]
        assert sum("content not read" in text for text in texts) == 4
        assert "part 2 of 5" in texts[1]

    def test_one_part_of_one_is_everything(self) -> None:
        sink, archive_id = make(CHUNKED)
        report = verify(sink, archive_id, codec=CHUNKED, sample=Sample(part=1, of=1))
        assert (report.covered, report.sample) == (Coverage.WHOLE, None)

    def test_a_missing_blob_and_an_unreachable_store_stay_apart(self) -> None:
        sink, archive_id = make(CHUNKED)
        counting = FaultSink(sink)
        assert verify(counting, archive_id, codec=CHUNKED, sample=Sample(part=1, of=2)).ok
        for number in range(len(counting.operations)):
            with pytest.raises(SinkUnavailableError):
                verify(FaultSink(sink, fail_at=number), archive_id, codec=CHUNKED, sample=Sample(part=1, of=2))
        sink.delete(archive_id)
        report = verify(sink, archive_id, codec=CHUNKED, sample=Sample(part=1, of=2))
        assert found(report) == [("blob_not_found", archive_id)]

    @pytest.mark.parametrize("sample", [None, Sample(part=1, of=2)])
    def test_a_wrong_key_is_an_error_and_a_damaged_slot_a_finding(self, sample: Sample | None) -> None:
        """Passphrases have no id, so that only opening tells."""
        sink = MemorySink()
        ours, other = (
            Ktb2Codec(seal_to=Passphrase(text=text), kdf=Argon2Parameters(memory_kib=19 << 10, iterations=2))
            for text in ("correct horse battery staple", "incorrect horse")
        )
        archive_id = backup(SOURCE, sink, ours, clock=lambda: MOMENT).archive_id
        assert verify(sink, archive_id, codec=ours, sample=sample).ok
        with pytest.raises(NoMatchingKeyError):
            verify(sink, archive_id, codec=other, sample=sample)
        changed = bytearray(sink.contents()[archive_id])
        changed[60] ^= 1  # the salt of the slot
        replace(sink, archive_id, bytes(changed))
        assert found(verify(sink, archive_id, codec=ours, sample=sample)) == [("digest_mismatch", archive_id)]


class TestRecording:
    def test_a_good_result_is_noted(self) -> None:
        sink, archive_id = make(SEALED)
        report = check(sink, archive_id, SEALED, record=True)
        assert report.recorded
        standing = read_standing(sink, list_marks(sink, archive_id))
        assert standing.verified_at == MOMENT
        assert not check(sink, archive_id, SEALED).recorded

    def test_a_bad_one_too_with_codes_and_without_messages(self) -> None:
        sink, archive_id = make(SEALED)
        replace(sink, archive_id, sink.contents()[archive_id][:-1])
        assert check(sink, archive_id, SEALED, record=True, level=VerifyLevel.PRESENCE).recorded
        (mark,) = read_marks(sink, archive_id)
        assert mark.name.verb is MarkVerb.FAILED
        assert mark.values == {"level": "presence", "part": None, "of": None, "findings": ["size_mismatch"]}

    @pytest.mark.parametrize("level", [VerifyLevel.STRUCTURE, VerifyLevel.PRESENCE])
    def test_less_than_all_does_not_count_as_verified(self, level: VerifyLevel) -> None:
        sink, archive_id = make(SEALED)
        assert check(sink, archive_id, SEALED, record=True, level=level).recorded
        assert read_standing(sink, list_marks(sink, archive_id)).verified_at is None

    def test_a_sink_that_refuses_does_not_lose_the_result(self) -> None:
        sink, archive_id = make(SEALED)
        narrow = MemorySink(permissions="lr")
        narrow._blobs = sink._blobs
        events: list[Event] = []
        report = check(narrow, archive_id, SEALED, record=True, observer=events.append)
        assert report.ok
        assert not report.recorded
        assert [(event.name, event.fields.get("error")) for event in events] == [
            ("verify.finished", None),
            ("verify.not_recorded", "sink_permission"),
        ]

    def test_nothing_is_noted_of_what_is_no_archive_yet(self) -> None:
        sink, archive_id = make(SEALED)
        sink.delete(manifest_key(archive_id))
        assert not check(sink, archive_id, SEALED, record=True).recorded
        assert read_marks(sink, archive_id) == []

    def test_a_mark_from_the_end_of_time_does_not_lose_the_result(self) -> None:
        sink, archive_id = make(SEALED)
        sink.put(f"side/{archive_id}/marks/99991231T235959999Z-noted-00000000.json", [b"{}"])
        report = check(sink, archive_id, SEALED, record=True)
        assert not report.recorded
        assert found(report) == [("mark", "99991231T235959999Z-noted-00000000.json")]


class TestMarks:
    def test_damaged_ones_that_matter_are_found(self) -> None:
        sink, archive_id = make(SEALED)
        pin(sink, archive_id)
        assert check(sink, archive_id, SEALED).ok
        (name,) = list_marks(sink, archive_id)
        replace(sink, name.key, b"{")
        report = check(sink, archive_id, SEALED, level=VerifyLevel.STRUCTURE)
        assert found(report) == [("mark", name.key.rpartition("/")[2])]

    def test_more_than_any_archive_has_are_not_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("knowtation_backup.operations.verify.MAX_SIDE_BLOBS", 20)
        sink, archive_id = make(SEALED)
        for number in range(30):
            sink.put(f"side/{archive_id}/marks/20260101T000000000Z-noted-{number:08x}.json", [b"x"])
        counting = FaultSink(sink)
        report = check(counting, archive_id, SEALED)
        assert [code for code, _ in found(report)] == ["too_many_blobs"]
        assert not any("marks/" in operation for operation in counting.operations if operation.startswith("read"))


class RemovedAt(MemorySink):
    """A sink from which somebody removes an archive, in the documented order, when one of its blobs is asked for."""

    victim = ""
    moment = ""

    def _notice(self, operation: str) -> None:
        if self.moment == operation:
            self.moment = ""
            for key in sorted(self.contents(), key=lambda key: not key.endswith("manifest.json")):
                self.delete(key)

    def _stat(self, key: str) -> BlobInfo:
        self._notice(f"stat {key.replace(self.victim, '')}")
        return super()._stat(key)

    def _read(self, key: str, start: int, size_bytes: int | None) -> Iterator[bytes]:
        self._notice(f"read {key.replace(self.victim, '')}")
        return super()._read(key, start, size_bytes)


@pytest.mark.parametrize("moment", ["stat ", "stat side//details.json", "read side//details.json", "read ", "never"])
def test_an_archive_that_is_removed_meanwhile_is_not_called_damaged(moment: str) -> None:
    sink = RemovedAt()
    archive_id = backup(SOURCE, sink, clock=lambda: MOMENT).archive_id
    sink.victim, sink.moment = archive_id, moment
    if moment == "never":
        assert check(sink, archive_id, None, record=True).ok
        return
    with pytest.raises(BlobNotFoundError, match="was removed from memory while it was being verified") as caught:
        check(sink, archive_id, None, record=True)
    assert caught.value.hint == "list the archives"
    assert sink.contents() == {}  # nothing was noted of what is gone


def test_nothing_is_noted_of_an_archive_that_was_removed_after_its_last_byte_was_read() -> None:
    sink = MemorySink()
    archive_id = backup(SOURCE, sink, clock=lambda: MOMENT).archive_id

    def removing(chunks: Iterable[bytes], _facts: Mapping[str, Any]) -> list[Finding]:
        for _ in chunks:
            pass
        for key in sink.contents():
            sink.delete(key)
        return []

    with pytest.raises(BlobNotFoundError, match="was removed"):
        check(sink, archive_id, None, payload_checker=removing, record=True)
    assert sink.contents() == {}


def test_a_level_given_as_text_is_refused_rather_than_not_looked_at() -> None:
    sink, archive_id = make(None)
    with pytest.raises(ConfigurationError, match="the level is 'content'") as caught:
        check(sink, archive_id, None, level="content")
    assert "VerifyLevel.CONTENT" in caught.value.hint


def test_a_payload_that_no_key_at_hand_opens_is_no_finding() -> None:
    mine, other = EncryptionKey.generate(), EncryptionKey.generate()
    sink, archive_id = make(Ktb2Codec(seal_to=mine))
    foreign = b"".join(Ktb2Codec(seal_to=other).seal([b"{}"]))
    replace(sink, archive_id, foreign)
    ref = BlobRef(key=archive_id, size_bytes=len(foreign), sha256=hashlib.sha256(foreign).hexdigest())
    edit_manifest(sink, archive_id, artifact=ref)
    with pytest.raises(NoMatchingKeyError):
        check(sink, archive_id, Ktb2Codec(seal_to=mine), record=True)
    assert not list_marks(sink, archive_id)


def test_details_that_say_they_are_too_large_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    sink, archive_id = make(None)
    monkeypatch.setattr("knowtation_backup.operations.verify.MAX_DETAILS_BYTES", 100)
    watched = FaultSink(sink)
    (finding,) = check(watched, archive_id, None).findings
    assert (finding.code, "the manifest says they have" in finding.message) == ("details_too_large", True)
    assert f"read side/{archive_id}/details.json" not in watched.operations


def test_an_archive_stays_in_its_part_from_release_to_release() -> None:
    parts = [part for part in range(1, 8) if is_in_part("archive", Sample(part=part, of=7))]
    assert parts == [4]
