"""Signed archives on a sink: what a policy refuses is refused before anything is opened."""

import datetime as dt
import functools
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from knowtation_backup.codecs.keys import EncryptionKey
from knowtation_backup.codecs.ktb1 import Ktb1Codec
from knowtation_backup.codecs.signing import SigningKey, sign_manifest
from knowtation_backup.errors import (
    BackupError,
    BlobExistsError,
    BlobNotFoundError,
    ConfigurationError,
    ManifestError,
    PlanStaleError,
    SignatureError,
    SinkUnavailableError,
    UnsupportedFormatError,
)
from knowtation_backup.model.manifest import Manifest, manifest_key
from knowtation_backup.model.plans import ArchiveState
from knowtation_backup.model.reports import VerifyLevel, VerifyReport
from knowtation_backup.model.signatures import MAX_SIGNATURE_BYTES, SignatureFile, SignaturePolicy
from knowtation_backup.operations.backup import backup
from knowtation_backup.operations.read import read, read_manifest
from knowtation_backup.operations.sign import sign_archive
from knowtation_backup.operations.signatures import read_signatures
from knowtation_backup.operations.verify import verify
from knowtation_backup.pipeline import Pipeline
from knowtation_backup.retention.keep import KeepLast
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.faults import FaultMoment, FaultSink
from knowtation_backup.testing.sources import FakeSource

MOMENT = dt.datetime(2026, 4, 8, 15, 30, 22, tzinfo=dt.UTC)
SEALED = Ktb1Codec(EncryptionKey.generate())
KEY, STRANGER = SigningKey.generate(), SigningKey.generate()
POLICY = SignaturePolicy(trusted=(KEY.verify_key,))
SOURCE = FakeSource()


def make(
    *, key: SigningKey | None = KEY, moment: dt.datetime = MOMENT, source: FakeSource = SOURCE, sealed: bool = True
) -> tuple[MemorySink, str]:
    sink = MemorySink()
    report = backup(source, sink, SEALED if sealed else None, signing_keys=[key] if key else [], clock=lambda: moment)
    return sink, report.archive_id


def replace(sink: MemorySink, key: str, data: bytes | None) -> None:
    if key in sink.contents():
        sink.delete(key)
    if data is not None:
        sink.put(key, [data])


def signature_key(archive_id: str) -> str:
    return f"side/{archive_id}/manifest.sig"


def refusal(sink: MemorySink, archive_id: str, policy: SignaturePolicy = POLICY) -> str:
    """The kind of the error with which the archive is refused; nothing but manifest and signature may be read."""
    watched = FaultSink(sink)
    with pytest.raises((SignatureError, UnsupportedFormatError)) as caught:
        next(read(watched, archive_id, SEALED, policy=policy))
    assert caught.value.context.get("archive_id") == archive_id
    keys = {operation.partition(" ")[2] for operation in map(str, watched.operations)}
    assert not any(archive_id in key and "manifest." not in key for key in keys), keys
    return caught.value.kind


def check(sink: MemorySink, archive_id: str, **options: Any) -> VerifyReport:
    return verify(sink, archive_id, codec=SEALED, policy=options.pop("policy", POLICY), **options)


def codes(report: VerifyReport) -> list[str]:
    return [finding.code for finding in report.findings]


def test_a_signed_archive_is_read_and_verifies() -> None:
    sink, archive_id = make()
    assert b"".join(read(sink, archive_id, SEALED, policy=POLICY)) == b"".join(SOURCE.payload)
    report = check(sink, archive_id)
    assert report.ok
    stored = sink.contents()
    assert report.bytes_read == sum(len(data) for key, data in stored.items() if not key.endswith("started.json"))


@pytest.mark.parametrize("level", list(VerifyLevel))
def test_every_level_looks_at_signatures(level: VerifyLevel) -> None:
    sink, archive_id = make(key=STRANGER)
    assert codes(check(sink, archive_id, level=level)) == ["unknown_signer"]


def test_what_is_refused_is_not_opened() -> None:
    """Anybody can seal to a public key, so what is inside must not even be parsed."""
    sink, archive_id = make(key=STRANGER)
    assert refusal(sink, archive_id) == "unknown_signer"
    report = check(sink, archive_id)
    assert report.bytes_read == sum(len(data) for key, data in sink.contents().items() if "manifest." in key)


def test_a_downgrade_to_unsigned_is_refused() -> None:
    sink, archive_id = make()
    replace(sink, signature_key(archive_id), None)
    assert refusal(sink, archive_id) == "unsigned"
    assert codes(check(sink, archive_id)) == ["unsigned"]
    tolerant = attrs.evolve(POLICY, unsigned="report")
    assert read_manifest(sink, archive_id, tolerant).archive_id == archive_id
    report = check(sink, archive_id, policy=tolerant)
    assert (codes(report), report.covered.value) == (["unsigned"], "whole")
    careless = attrs.evolve(POLICY, unsigned="allow")
    assert read_manifest(sink, archive_id, careless).archive_id == archive_id
    assert check(sink, archive_id, policy=careless).ok


def test_without_trusted_keys_a_signature_that_does_not_fit_is_still_found() -> None:
    sink, archive_id = make()
    replace(sink, signature_key(archive_id), sign_manifest(b"something else", [STRANGER]))
    assert read_manifest(sink, archive_id, SignaturePolicy()).archive_id == archive_id
    report = verify(sink, archive_id, codec=SEALED)
    assert (codes(report), report.covered.value) == (["bad_signature"], "whole")
    assert refusal(sink, archive_id, SignaturePolicy(unsigned="refuse")) == "bad_signature"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "bad_signature"),
        (b"x" * (MAX_SIGNATURE_BYTES + 1), "bad_signature"),
        (SignatureFile(signatures=()).to_bytes(), "unknown_signer"),
        (SignatureFile(signatures=()).to_bytes().replace(b'version":1', b'version":2'), "unsupported_format"),
    ],
)
def test_signature_files_that_are_none_are_refused(data: bytes, kind: str) -> None:
    sink, archive_id = make()
    replace(sink, signature_key(archive_id), data)
    assert refusal(sink, archive_id) == kind
    report = check(sink, archive_id)
    assert codes(report) == [kind]
    assert report.findings[0].where == signature_key(archive_id)


class TestAttacks:
    """Somebody who may write to the store, and has an archive of the same keys or a key of his own."""

    def test_every_flipped_bit_of_manifest_and_signature_is_refused(self) -> None:
        sink, archive_id = make()
        for key in (manifest_key(archive_id), signature_key(archive_id)):
            data = sink.contents()[key]
            kinds = {self.kind_of(sink, archive_id, key, flipped(data, position)) for position in range(8 * len(data))}
            replace(sink, key, data)
            assert kinds <= {"bad_signature", "unknown_signer", "unsupported_format"}
            assert "bad_signature" in kinds
        assert check(sink, archive_id).ok

    def test_every_cut_of_manifest_and_signature_is_refused(self) -> None:
        sink, archive_id = make()
        for key in (manifest_key(archive_id), signature_key(archive_id)):
            data = sink.contents()[key]
            kinds = {self.kind_of(sink, archive_id, key, data[:size]) for size in range(len(data))}
            replace(sink, key, data)
            assert kinds == {"bad_signature"}

    @staticmethod
    def kind_of(sink: MemorySink, archive_id: str, key: str, data: bytes) -> str:
        replace(sink, key, data)
        try:
            read_manifest(sink, archive_id, POLICY)
        except (SignatureError, UnsupportedFormatError) as error:
            return error.kind
        return "accepted"

    @pytest.mark.parametrize(
        "change",
        [
            lambda m: attrs.evolve(m, complete=False),
            lambda m: attrs.evolve(m, counts={**m.counts, "notes": 3}),
            lambda m: attrs.evolve(m, kind="other"),
            lambda m: attrs.evolve(m, source_id="other"),
            lambda m: attrs.evolve(m, taken_at=MOMENT + dt.timedelta(days=1)),
            lambda m: attrs.evolve(m, finished_at=MOMENT + dt.timedelta(days=1)),
            lambda m: attrs.evolve(m, codecs=()),
            lambda m: attrs.evolve(m, tags=("pinned",)),
            lambda m: attrs.evolve(m, side=()),
            lambda m: attrs.evolve(m, artifact=attrs.evolve(m.artifact, sha256="0" * 64)),
            lambda m: attrs.evolve(m, artifact=attrs.evolve(m.artifact, size_bytes=1)),
            lambda m: attrs.evolve(m, generator="other"),
            lambda m: attrs.evolve(m, extra={"more": 1}),
        ],
    )
    def test_every_field_changed_with_valid_json_is_refused(self, change: Callable[[Manifest], Manifest]) -> None:
        sink, archive_id = make()
        manifest = Manifest.from_bytes(sink.contents()[manifest_key(archive_id)])
        replace(sink, manifest_key(archive_id), change(manifest).to_bytes())
        assert refusal(sink, archive_id) == "bad_signature"
        assert "bad_signature" in codes(check(sink, archive_id))

    def test_the_same_manifest_written_otherwise_is_refused(self) -> None:
        sink, archive_id = make()
        data = sink.contents()[manifest_key(archive_id)]
        for other in (data[:-1], data + b"\n", data.replace(b",", b", ", 1), b"\xef\xbb\xbf" + data):
            replace(sink, manifest_key(archive_id), other)
            assert refusal(sink, archive_id) == "bad_signature"

    def test_a_forged_archive_signed_by_somebody_else_is_refused(self) -> None:
        sink, archive_id = make()
        manifest = attrs.evolve(Manifest.from_bytes(sink.contents()[manifest_key(archive_id)]), complete=False)
        replace(sink, manifest_key(archive_id), manifest.to_bytes())
        replace(sink, signature_key(archive_id), sign_manifest(manifest.to_bytes(), [STRANGER]))
        assert refusal(sink, archive_id) == "unknown_signer"
        named = sign_manifest(manifest.to_bytes(), [STRANGER]).replace(
            STRANGER.verify_key.raw.hex().encode(), KEY.verify_key.raw.hex().encode()
        )
        replace(sink, signature_key(archive_id), named)
        assert refusal(sink, archive_id) == "bad_signature"

    def test_a_whole_archive_under_the_name_of_another_is_refused(self) -> None:
        """Manifest and signature fit each other, and speak of another archive."""
        sink, archive_id = make()
        other_sink, other_id = make(moment=MOMENT - dt.timedelta(days=30))
        for key, data in other_sink.contents().items():
            replace(sink, key.replace(other_id, archive_id), data)
        with pytest.raises(ManifestError) as caught:
            read_manifest(sink, archive_id, POLICY)
        assert caught.value.kind == "manifest_of_another_archive"
        assert codes(check(sink, archive_id)) == ["manifest_of_another_archive"]

    def test_the_signature_of_another_archive_does_not_fit(self) -> None:
        sink, archive_id = make()
        other_sink, other_id = make(moment=MOMENT - dt.timedelta(days=30))
        replace(sink, signature_key(archive_id), other_sink.contents()[signature_key(other_id)])
        assert refusal(sink, archive_id) == "bad_signature"

    @pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "plain"])
    def test_blobs_exchanged_between_archives_of_the_same_keys_are_found(self, sealed: bool) -> None:  # noqa: FBT001
        sink, archive_id = make(sealed=sealed)
        source = attrs.evolve(SOURCE, payload=(b'{"notes":', b"{}}"), source_id="other-hub")
        other_sink, other_id = make(source=source, moment=MOMENT - dt.timedelta(days=30), sealed=sealed)
        suffix = ".enc" if sealed else ""
        for name in ("", f"details.json{suffix}"):
            here = f"side/{archive_id}/{name}" if name else archive_id
            there = f"side/{other_id}/{name}" if name else other_id
            kept = sink.contents()[here]
            replace(sink, here, other_sink.contents()[there])
            found = codes(verify(sink, archive_id, codec=SEALED if sealed else None, policy=POLICY))
            assert found in (["digest_mismatch"], ["size_mismatch"])
            if not name:
                with pytest.raises(BackupError):
                    list(read(sink, archive_id, SEALED if sealed else None, policy=POLICY))
            replace(sink, here, kept)

    def test_an_older_manifest_replayed_under_the_same_id_fits_only_its_own_blobs(self) -> None:
        """A backup of the same second on another sink, signed by the same key: genuine, and of other bytes."""
        sink, archive_id = make()
        older, same_id = make(source=attrs.evolve(SOURCE, payload=(b"{}",)))
        assert same_id == archive_id
        for key in (manifest_key(archive_id), signature_key(archive_id)):
            replace(sink, key, older.contents()[key])
        assert read_manifest(sink, archive_id, POLICY).archive_id == archive_id
        assert set(codes(check(sink, archive_id))) <= {"size_mismatch", "digest_mismatch"}
        with pytest.raises(BackupError):
            list(read(sink, archive_id, SEALED, policy=POLICY))

    @pytest.mark.parametrize(
        ("changes", "found"),
        [
            ({"complete": False}, "manifest_contradicted"),
            ({"counts": {"tenants": 9}}, "manifest_contradicted"),
            ({"source_id": "other"}, "manifest_contradicted"),
            ({"kind": "other"}, "manifest_contradicted"),
            ({"side": ()}, "details_missing"),
            ({"tags": ("other",)}, None),
            ({"finished_at": MOMENT + dt.timedelta(days=1)}, None),
            ({"generator": "other"}, None),
        ],
    )
    def test_what_sealed_details_show_without_any_signature(self, changes: dict[str, Any], found: str | None) -> None:
        sink, archive_id = make(key=None)
        manifest = Manifest.from_bytes(sink.contents()[manifest_key(archive_id)])
        replace(sink, manifest_key(archive_id), attrs.evolve(manifest, **changes).to_bytes())
        assert codes(verify(sink, archive_id, codec=SEALED)) == ([found] if found else [])


def flipped(data: bytes, position: int) -> bytes:
    changed = bytearray(data)
    changed[position // 8] ^= 1 << position % 8
    return bytes(changed)


class TestSigningLater:
    def test_an_unsigned_archive_can_be_signed_once(self) -> None:
        sink, archive_id = make(key=None)
        assert read_signatures(sink, archive_id) is None
        assert refusal(sink, archive_id) == "unsigned"
        sign_archive(sink, archive_id, [KEY])
        assert check(sink, archive_id).ok
        with pytest.raises(BlobExistsError):
            sign_archive(sink, archive_id, [STRANGER])
        assert check(sink, archive_id).ok

    def test_it_needs_no_right_to_overwrite_or_delete(self) -> None:
        sink, archive_id = make(key=None)
        narrow = MemorySink(permissions="rw")
        narrow._blobs = sink._blobs
        sign_archive(narrow, archive_id, [KEY])
        assert check(sink, archive_id).ok

    def test_what_is_no_archive_is_not_signed(self) -> None:
        sink, archive_id = make(key=None)
        with pytest.raises(BlobNotFoundError):
            sign_archive(sink, "nothing", [KEY])
        with pytest.raises(ConfigurationError, match="no key"):
            sign_archive(sink, archive_id, [])
        replace(sink, manifest_key(archive_id), b"{}")
        with pytest.raises(ManifestError):
            sign_archive(sink, archive_id, [KEY])
        assert signature_key(archive_id) not in sink.contents()


class TestUnreachableStores:
    @pytest.mark.parametrize("moment", list(FaultMoment))
    def test_they_are_never_called_unsigned(self, moment: FaultMoment) -> None:
        inner, archive_id = make()
        counting = FaultSink(inner)
        read_manifest(counting, archive_id, POLICY)
        assert len(counting.operations) == 2
        for number in range(2):
            with pytest.raises(SinkUnavailableError):
                read_manifest(FaultSink(inner, fail_at=number, moment=moment), archive_id, POLICY)

    def test_an_archive_that_is_being_removed_is_gone_and_not_unsigned(self) -> None:
        sink, archive_id = make()

        class Removing(MemorySink):
            def _read(self, key: str, start: int, size_bytes: int | None) -> Any:
                yield from sink.read(key, start=start, size_bytes=size_bytes)
                if key == manifest_key(archive_id):
                    for item in list(sink.contents()):
                        sink.delete(item)

            def _stat(self, key: str) -> Any:
                return sink.stat(key)

        with pytest.raises(BlobNotFoundError):
            read_manifest(Removing(), archive_id, POLICY)


class TestForgedArchives:
    """Somebody who may create blobs makes newer archives, to be restored from or to push the genuine ones out."""

    @staticmethod
    def attacked() -> tuple[Pipeline, list[str], list[str]]:
        sink = MemorySink()
        days = [MOMENT + dt.timedelta(days=day) for day in range(8)]
        genuine = [
            backup(SOURCE, sink, SEALED, signing_keys=[KEY], clock=functools.partial(min, moment, moment)).archive_id
            for moment in days[:3]
        ]
        forged = [
            backup(SOURCE, sink, signing_keys=keys, clock=functools.partial(min, moment, moment)).archive_id
            for moment, keys in zip(days[3:], ([], [STRANGER], [STRANGER], [], []), strict=True)
        ]
        pipeline = Pipeline(
            sink=sink,
            codec=SEALED,
            signatures=POLICY,
            retention=KeepLast(limit=2),
            trash_grace=dt.timedelta(0),
            clock=lambda: MOMENT + dt.timedelta(days=9),
        )
        return pipeline, genuine, forged

    def test_they_are_never_the_latest(self) -> None:
        pipeline, genuine, _ = self.attacked()
        assert pipeline.latest().archive_id == genuine[-1]
        assert b"".join(pipeline.read()) == b"".join(SOURCE.payload)
        assert attrs.evolve(pipeline, signatures=None).latest().archive_id not in genuine

    def test_they_are_listed_as_damaged(self) -> None:
        pipeline, genuine, forged = self.attacked()
        states = {info.archive_id: info.state for info in pipeline.list()}
        assert {states[archive_id] for archive_id in genuine} == {ArchiveState.COMPLETE}
        assert {states[archive_id] for archive_id in forged} == {ArchiveState.DAMAGED}

    def test_they_push_no_genuine_archive_out(self) -> None:
        pipeline, genuine, _ = self.attacked()
        plan = pipeline.plan_forget()
        assert {info.archive_id for info in plan.kept} >= set(genuine[1:])
        pipeline.apply(plan)
        assert {info.archive_id for info in pipeline.list()} >= set(genuine[1:])
        careless = attrs.evolve(self.attacked()[0], signatures=None)
        assert {info.archive_id for info in careless.plan_forget().forgotten} >= set(genuine), "as it would be without"

    def test_a_plan_made_with_another_policy_is_stale(self) -> None:
        pipeline, _, _ = self.attacked()
        plan = attrs.evolve(pipeline, signatures=None).plan_forget()
        with pytest.raises(PlanStaleError):
            pipeline.apply(plan)


def test_a_signature_file_too_large_to_be_one_keeps_the_content_closed() -> None:
    sink, archive_id = make()
    replace(sink, signature_key(archive_id), b"x" * (MAX_SIGNATURE_BYTES + 1))
    watched = FaultSink(sink)
    assert codes(verify(watched, archive_id, codec=SEALED, policy=POLICY)) == ["bad_signature"]
    assert f"read {archive_id}" not in watched.operations
    assert f"read side/{archive_id}/details.json.enc" not in watched.operations
    verify(watched, archive_id, codec=SEALED)
    assert f"read {archive_id}" in watched.operations  # whoever trusts everybody looks at the rest


def test_reporting_the_unsigned_lets_no_wrong_signature_pass() -> None:
    lenient = SignaturePolicy(trusted=KEY.verify_key, unsigned="report")
    sink, archive_id = make(key=STRANGER)
    assert refusal(sink, archive_id, lenient) == "unknown_signer"
    replace(sink, signature_key(archive_id), b"{}")
    assert refusal(sink, archive_id, lenient) == "bad_signature"
    replace(sink, signature_key(archive_id), None)
    assert b"".join(read(sink, archive_id, SEALED, policy=lenient))
