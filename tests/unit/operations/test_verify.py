"""Verifying: every kind of damage has its finding, and what is no damage is raised."""

import datetime as dt
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
import pytest

from knowtation_backup.codecs.keys import EncryptionKey
from knowtation_backup.codecs.ktb1 import Ktb1Codec
from knowtation_backup.contracts import EncryptionCodec
from knowtation_backup.errors import (
    BlobNotFoundError,
    ConfigurationError,
    IntegrityError,
    NoMatchingKeyError,
    SinkUnavailableError,
)
from knowtation_backup.model.blobs import BlobRef
from knowtation_backup.model.events import Event
from knowtation_backup.model.manifest import Manifest, manifest_key
from knowtation_backup.model.reports import Finding, Outcome, SideFile, VerifyLevel, VerifyReport
from knowtation_backup.operations.backup import backup
from knowtation_backup.operations.verify import verify
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.faults import FaultMoment, FaultSink
from knowtation_backup.testing.sources import FakeSource

MOMENT = dt.datetime(2026, 4, 8, 15, 30, 22, tzinfo=dt.UTC)
KEY = EncryptionKey.generate()
SEALED = Ktb1Codec(KEY)
SOURCE = FakeSource(side_files=(SideFile(name="raw-0001.txt", content=b"not json"),))
CODECS = pytest.mark.parametrize("codec", [None, SEALED], ids=["plain", "sealed"])


def make(codec: EncryptionCodec | None, source: FakeSource = SOURCE) -> tuple[MemorySink, str]:
    sink = MemorySink()
    return sink, backup(source, sink, codec, clock=lambda: MOMENT).archive_id


def replace(sink: MemorySink, key: str, data: bytes) -> None:
    sink.delete(key)
    sink.put(key, [data])


def check(sink: MemorySink, archive_id: str, codec: EncryptionCodec | None, **options: Any) -> VerifyReport:
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
    import hashlib  # noqa: PLC0415 - only this test forges digests

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
