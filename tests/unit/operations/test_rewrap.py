"""Other keys for an archive: its data bytes stay, the removed key no longer opens it, and the old one is untouched."""

import datetime as dt
import itertools
import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from knowtation_backup.codecs.chain import CodecChain
from knowtation_backup.codecs.compression import Compression
from knowtation_backup.codecs.keyring import Keyring
from knowtation_backup.codecs.keys import EncryptionKey, Passphrase, PrivateKey
from knowtation_backup.codecs.ktb1 import Ktb1Codec
from knowtation_backup.codecs.ktb2 import Argon2Parameters, Ktb2Codec, OpeningKey, SealingKey, describe
from knowtation_backup.codecs.signing import SigningKey
from knowtation_backup.contracts import ArchiveSink, Codec
from knowtation_backup.errors import (
    BlobNotFoundError,
    ConfigurationError,
    DigestMismatchError,
    IntegrityError,
    NoMatchingKeyError,
    SignatureError,
    SinkUnavailableError,
    TamperedError,
    UnsupportedFormatError,
)
from knowtation_backup.model.events import Event
from knowtation_backup.model.manifest import Manifest, manifest_key
from knowtation_backup.model.marks import MarkVerb
from knowtation_backup.model.plans import ArchiveState
from knowtation_backup.model.reports import Outcome, SideFile
from knowtation_backup.model.signatures import SignaturePolicy
from knowtation_backup.operations import marks
from knowtation_backup.operations.adopt import adopt
from knowtation_backup.operations.backup import ReadBack, backup
from knowtation_backup.operations.catalog import find_archive, list_archives
from knowtation_backup.operations.forget import apply_forget, plan_delete
from knowtation_backup.operations.read import read, read_details, read_manifest, read_side_file
from knowtation_backup.operations.rewrap import RewrapOptions, RewrapReport, rewrap
from knowtation_backup.operations.verify import verify
from knowtation_backup.pipeline import Pipeline
from knowtation_backup.retention.keep import KeepLast
from knowtation_backup.sinks.fsspec import FsspecSink
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.sinks.mirror import MirrorSink
from knowtation_backup.testing.faults import FaultMoment, FaultSink
from knowtation_backup.testing.sources import FakeSource

START = dt.datetime(2026, 4, 8, 15, 30, 22, 123000, dt.UTC)
ALICE, BOB, CAROL, DAVE = (PrivateKey.generate("x25519") for _ in range(4))
HYBRID = PrivateKey.generate()
SYMMETRIC, SESAME = EncryptionKey.generate(), Passphrase(text="open sesame")
SOURCE = FakeSource(payload=(b"x" * 300_000,) * 3, side_files=(SideFile(name="raw-0001.txt", content=b"raw" * 100),))
PAYLOAD = b"".join(SOURCE.payload)
SIGNER = SigningKey.generate()


def to(*keys: PrivateKey, compressed: bool = False) -> Codec:
    """Return the codec of a host that holds public keys only."""
    codec = Ktb2Codec(seal_to=[key.public_key for key in keys])
    return CodecChain(Compression("gzip"), codec) if compressed else codec


def ticking(seconds: "itertools.count[int] | None" = None) -> Callable[[], dt.datetime]:
    seconds = seconds or itertools.count()
    return lambda: START + dt.timedelta(seconds=next(seconds))


def stored(sink: MemorySink | FsspecSink, codec: Codec | None = None) -> str:
    return backup(SOURCE, sink, codec or to(ALICE, BOB, CAROL), clock=lambda: START).archive_id


def without_carol(sink: ArchiveSink, archive_id: str, options: RewrapOptions | None = None) -> RewrapReport:
    recipients = [key.public_key for key in (ALICE, BOB, DAVE)]
    return rewrap(sink, archive_id, open_with=ALICE, seal_to=recipients, options=options, clock=ticking())


def payload(sink: ArchiveSink, archive_id: str, key: OpeningKey) -> bytes:
    return b"".join(read(sink, archive_id, Ktb2Codec(open_with=key)))


def data_bytes(sink: MemorySink, key: str) -> bytes:
    """Return what follows the header of a stored blob."""
    blob = sink.contents()[key]
    return blob[describe(lambda: iter([blob])).header_bytes :]


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink(permissions="lrw")


@pytest.mark.parametrize("compressed", [False, True])
def test_the_removed_key_no_longer_opens_and_the_data_bytes_are_untouched(
    sink: MemorySink, *, compressed: bool
) -> None:
    old = stored(sink, to(ALICE, BOB, CAROL, compressed=compressed))
    for key in (ALICE, BOB, CAROL):
        assert payload(sink, old, key) == PAYLOAD
    before = sink.contents()

    report = without_carol(sink, old)
    new = report.archive_id
    for key in (ALICE, BOB, DAVE):
        assert payload(sink, new, key) == PAYLOAD
        assert verify(sink, new, codec=Keyring(key)).ok
    for codec in (Ktb2Codec(open_with=CAROL), Keyring(CAROL)):
        with pytest.raises(NoMatchingKeyError):
            list(read(sink, new, codec))
        with pytest.raises(NoMatchingKeyError):
            read_details(sink, read_manifest(sink, new), codec)

    raw = f"/raw-0001.txt{read_manifest(sink, old).side[1].key.partition('.txt')[2]}"
    for one, other in ((old, new), (f"side/{old}{raw}", f"side/{new}{raw}")):
        assert data_bytes(sink, one) == data_bytes(sink, other)
        assert sink.contents()[one] != sink.contents()[other]
    after = sink.contents()
    assert {key: after[key] for key in before} == before


def test_even_with_the_manifest_changed_the_removed_key_opens_no_blob(sink: MemorySink) -> None:
    new = without_carol(sink, stored(sink)).manifest
    for ref in (new.artifact, *new.side):
        with pytest.raises(NoMatchingKeyError):
            list(Ktb2Codec(open_with=CAROL).open(lambda key=ref.key: sink.read(key)))  # type: ignore[misc]


def test_the_new_archive_says_what_the_old_one_did(sink: MemorySink) -> None:
    codec = to(ALICE, CAROL)
    source = attrs.evolve(SOURCE, complete=False)
    old = backup(source, sink, codec, clock=lambda: START).manifest
    report = rewrap(sink, old.archive_id, open_with=CAROL, seal_to=ALICE.public_key, clock=ticking())
    new = read_manifest(sink, report.archive_id)
    assert new == report.manifest
    assert new.archive_id == "operator-full-export-20260408T153022Z-01.json.ktb2"
    assert (new.kind, new.source_id, new.taken_at, new.complete, new.counts, new.tags) == (
        old.kind,
        old.source_id,
        old.taken_at,
        old.complete,
        old.counts,
        old.tags,
    )
    assert new.extra == {"rewrapped_from": old.archive_id}
    assert new.codecs[-1].key_ids == (ALICE.key_id,)
    details = read_details(sink, new, Keyring(ALICE))
    assert details == attrs.evolve(read_details(sink, old, Keyring(ALICE)), artifact=new.archive_id)
    assert read_side_file(sink, new, "raw-0001.txt", Keyring(ALICE), limit_bytes=1000) == b"raw" * 100
    assert (report.previous_id, report.removed_key_ids, report.added_key_ids) == (old.archive_id, (CAROL.key_id,), ())
    assert f"key {CAROL.key_id} does not open it" in str(report)
    assert f"forget {old.archive_id}" in str(report)


def test_the_new_one_is_the_latest_and_the_old_one_can_be_forgotten() -> None:
    sink = MemorySink()
    old = stored(sink)
    new = without_carol(sink, old).archive_id
    assert find_archive(list_archives(sink)).archive_id == new
    apply_forget(sink, plan_delete(sink, [old], now=START, trash_grace=dt.timedelta(0)))
    assert [info.archive_id for info in list_archives(sink)] == [new]
    assert not any(key == old or key.startswith(f"side/{old}/") for key in sink.contents())
    assert verify(sink, new, codec=Keyring(BOB)).ok


def test_again_and_again(sink: MemorySink) -> None:
    old = stored(sink)
    first = without_carol(sink, old)
    second = rewrap(sink, first.archive_id, open_with=DAVE, seal_to=HYBRID.public_key, clock=ticking())
    assert second.archive_id.endswith("-02.json.ktb2")
    assert second.manifest.extra == {"rewrapped_from": first.archive_id}
    assert payload(sink, second.archive_id, HYBRID) == PAYLOAD
    with pytest.raises(NoMatchingKeyError):
        payload(sink, second.archive_id, DAVE)


@pytest.mark.parametrize(
    ("key", "opens"),
    [
        (SYMMETRIC, SYMMETRIC),
        (SESAME, SESAME),
        (HYBRID.public_key, HYBRID),
    ],
    ids=["key", "passphrase", "hybrid"],
)
def test_keys_of_every_kind_can_be_sealed_to(sink: MemorySink, key: SealingKey, opens: OpeningKey) -> None:
    quick = RewrapOptions(kdf=Argon2Parameters(memory_kib=19 * 1024, iterations=2, lanes=1))
    old = stored(sink)
    report = rewrap(sink, old, open_with=[DAVE, BOB], seal_to=key, options=quick, clock=ticking())
    assert payload(sink, report.archive_id, opens) == PAYLOAD
    assert set(report.removed_key_ids) == {ALICE.key_id, BOB.key_id, CAROL.key_id}


class TestRefusals:
    def test_without_a_key_that_opens_it_nothing_is_written(self, sink: MemorySink) -> None:
        old = stored(sink)
        before = sink.contents()
        with pytest.raises(NoMatchingKeyError, match=ALICE.key_id):
            rewrap(sink, old, open_with=DAVE, seal_to=DAVE.public_key)
        assert sink.contents() == before

    @pytest.mark.parametrize(
        ("open_with", "seal_to", "kind"),
        [
            ([ALICE], [], "no_recipient"),
            ([ALICE], [BOB], "bad_recipient"),
            ([ALICE.public_key], [BOB.public_key], "bad_recipient"),
            ([ALICE], "secret", "bad_recipient"),
        ],
    )
    def test_keys_of_the_wrong_kind_are_refused_before_anything_is_read(
        self, open_with: list[PrivateKey], seal_to: list[SealingKey], kind: str
    ) -> None:
        with pytest.raises(ConfigurationError) as caught:
            rewrap(MemorySink(permissions=""), "any", open_with=open_with, seal_to=seal_to)
        assert caught.value.kind == kind
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize(
        "codec", [None, Ktb1Codec(EncryptionKey.generate()), Compression("gzip")], ids=["plain", "ktb1", "gzip"]
    )
    def test_other_formats_are_refused(self, sink: MemorySink, codec: Codec | None) -> None:
        old = backup(SOURCE, sink, codec, clock=lambda: START).archive_id
        before = sink.contents()
        with pytest.raises(UnsupportedFormatError, match="back up again") as caught:
            rewrap(sink, old, open_with=ALICE, seal_to=BOB.public_key)
        assert caught.value.kind == "not_rewrappable"
        assert sink.contents() == before

    def test_an_archive_that_is_not_there(self, sink: MemorySink) -> None:
        with pytest.raises(BlobNotFoundError):
            rewrap(sink, "operator-full-export-20260408T153022Z.json.ktb2", open_with=ALICE, seal_to=BOB.public_key)

    def test_an_archive_in_the_trash_stays_there(self) -> None:
        sink = MemorySink()
        stored(sink)
        old = stored(sink)
        apply_forget(sink, plan_delete(sink, [old], now=START), clock=lambda: START)
        with pytest.raises(ConfigurationError, match="undelete") as caught:
            without_carol(sink, old)
        assert caught.value.kind == "in_trash"

    @pytest.mark.parametrize("where", ["artifact", "side", "details"])
    def test_damage_does_not_travel(self, where: str) -> None:
        sink = MemorySink()
        manifest = read_manifest(sink, stored(sink))
        key = {"artifact": manifest.artifact.key, "details": manifest.side[0].key, "side": manifest.side[1].key}[where]
        damaged = bytearray(sink.contents()[key])
        damaged[-20] ^= 1
        sink.delete(key)
        sink.put(key, [bytes(damaged)])
        with pytest.raises((DigestMismatchError, TamperedError)):
            without_carol(sink, manifest.archive_id)
        assert sorted(info.state.value for info in list_archives(sink)) == ["complete", "unfinished"]

    def test_an_exchanged_blob_is_not_copied(self) -> None:
        """Genuine for its keys, and yet not the one that the manifest names."""
        sink = MemorySink()
        old, other = stored(sink), backup(attrs.evolve(SOURCE, payload=(b"y",)), sink, to(ALICE), clock=lambda: START)
        exchanged = sink.contents()[other.archive_id]
        sink.delete(old)
        sink.put(old, [exchanged])
        with pytest.raises(IntegrityError):
            without_carol(sink, old)


class TestSignatures:
    def signed(self, sink: MemorySink) -> str:
        codec = to(ALICE, BOB, CAROL)
        return backup(SOURCE, sink, codec, signing_keys=[SIGNER], clock=lambda: START).archive_id

    def test_a_signed_archive_becomes_a_signed_one(self, sink: MemorySink) -> None:
        old = self.signed(sink)
        policy = SignaturePolicy(trusted=(SIGNER.verify_key,), unsigned="refuse")
        report = rewrap(
            sink,
            old,
            open_with=ALICE,
            seal_to=BOB.public_key,
            signing_keys=[SIGNER],
            policy=policy,
            clock=ticking(),
        )
        assert read_manifest(sink, report.archive_id, policy) == report.manifest

    def test_it_does_not_silently_lose_its_signature(self, sink: MemorySink) -> None:
        old = self.signed(sink)
        before = sink.contents()
        with pytest.raises(ConfigurationError, match="unsigned=True") as caught:
            without_carol(sink, old)
        assert caught.value.kind == "no_signing_key"
        assert sink.contents() == before
        assert without_carol(sink, old, RewrapOptions(unsigned=True)).archive_id

    def test_an_archive_that_nobody_trusted_signed_is_not_taken(self, sink: MemorySink) -> None:
        policy = SignaturePolicy(trusted=(SIGNER.verify_key,), unsigned="refuse")
        with pytest.raises(SignatureError):
            rewrap(sink, stored(sink), open_with=ALICE, seal_to=BOB.public_key, signing_keys=[SIGNER], policy=policy)


class TestMarks:
    def test_what_was_noted_holds_for_the_new_archive(self, sink: MemorySink) -> None:
        old = backup(SOURCE, sink, to(ALICE), clock=lambda: START).archive_id
        clock = ticking()
        marks.pin(sink, old, until=START + dt.timedelta(days=30), clock=clock)
        marks.tag(sink, old, "pre-upgrade", "wrong", clock=clock)
        marks.untag(sink, old, "wrong", clock=clock)
        marks.annotate(sink, old, {"ticket": "42", "who": "me"}, clock=clock)
        marks.quarantine(sink, old, reason="odd", clock=clock)
        marks.record_verification(sink, verify(sink, old, codec=Keyring(ALICE), clock=clock), clock=clock)
        report = without_carol(sink, old)
        by_id = {info.archive_id: info for info in list_archives(sink)}
        before, after = by_id[old], by_id[report.archive_id]
        assert set(report.carried) == {"pinned", "tagged", "untagged", "noted", "quarantined"}
        assert after.tags == before.tags == ("pre-upgrade",)
        assert after.standing.notes == before.standing.notes == {"ticket": "42", "who": "me"}
        assert after.standing.pinned_until == before.standing.pinned_until == START + dt.timedelta(days=30)
        assert after.standing.quarantined
        assert before.standing.verified_at is not None
        assert after.standing.verified_at is None

    def test_what_was_undone_is_not_carried(self, sink: MemorySink) -> None:
        old, clock = stored(sink), ticking()
        marks.pin(sink, old, clock=clock)
        marks.unpin(sink, old, clock=clock)
        marks.quarantine(sink, old, clock=clock)
        marks.release(sink, old, clock=clock)
        assert without_carol(sink, old).carried == ()

    def test_a_failed_verification_is_not_forgotten(self, sink: MemorySink) -> None:
        old = stored(sink)
        put = marks.put_mark(sink, old, MarkVerb.FAILED, {"level": "content", "findings": ["x"]}, clock=ticking())
        new = without_carol(sink, old).archive_id
        assert next(info for info in list_archives(sink) if info.archive_id == new).standing.failed_at is not None
        assert marks.read_marks(sink, new)[0].values == put.values


@pytest.mark.parametrize(
    ("place", "kind", "moment"),
    [
        *itertools.product(["memory"], [SinkUnavailableError, KeyboardInterrupt], FaultMoment),
        ("local", KeyboardInterrupt, FaultMoment.DURING),
    ],
)
def test_operation_k_fails_for_every_k(
    tmp_path: Path, place: str, kind: type[BaseException], moment: FaultMoment
) -> None:
    options = RewrapOptions(read_back=ReadBack.CONTENT)

    def prepared(inner: MemorySink | FsspecSink) -> str:
        old = stored(inner)
        marks.pin(inner, old, clock=ticking())
        return old

    counting = MemorySink(permissions="lrw")
    old = prepared(counting)
    counted = FaultSink(counting)
    without_carol(counted, old, options)
    assert len(counted.operations) > 20

    for number in range(len(counted.operations)):
        inner = FsspecSink(tmp_path / str(number)) if place == "local" else MemorySink(permissions="lrw")
        old = prepared(inner)
        faulty = FaultSink(inner, fail_at=number, moment=moment, error=kind)
        try:
            without_carol(faulty, old, options)
        except kind:
            pass
        else:  # who reads a header stops before the rest of the stream could fail
            assert faulty.operations[number].startswith("read ")
            assert moment is not FaultMoment.BEFORE
            continue
        states = {info.archive_id: info.state for info in list_archives(inner)}
        assert states.pop(old) is ArchiveState.COMPLETE
        # Complete only when the answer to the very last write was lost; then it is whole.
        lost = faulty.operations[-1].startswith("put ") and faulty.operations[-1].endswith("/manifest.json")
        allowed = {ArchiveState.COMPLETE} if lost and moment is FaultMoment.AFTER else {ArchiveState.UNFINISHED}
        assert set(states.values()) <= allowed, faulty.operations[-1]
        assert verify(inner, old, codec=Keyring(CAROL)).ok
        again = without_carol(inner, old, options).archive_id
        assert payload(inner, again, DAVE) == PAYLOAD
        assert next(info for info in list_archives(inner) if info.archive_id == again).standing.pinned


class _Rotting(MemorySink):
    """Changes what it stores behind the writer's back."""

    rots = False

    def _put(self, key: str, chunks: Iterator[bytes]) -> object:  # type: ignore[override]
        data = b"".join(chunks)
        return super()._put(key, [data[:-1] + bytes([data[-1] ^ 1]) if self.rots and "started" not in key else data])


def test_reading_back_notices_a_store_that_changes_bytes() -> None:
    sink = _Rotting()
    old = stored(sink)
    sink.rots = True
    with pytest.raises(DigestMismatchError, match="was written"):
        without_carol(sink, old, RewrapOptions(read_back=ReadBack.CONTENT))
    assert {info.state for info in list_archives(sink)} == {ArchiveState.COMPLETE, ArchiveState.UNFINISHED}


def test_memory_is_constant(tmp_path: Path) -> None:
    sink = FsspecSink(tmp_path)
    source = attrs.evolve(SOURCE, payload=(bytes(1 << 20),) * 48)
    old = backup(source, sink, to(ALICE), clock=lambda: START).archive_id
    tracemalloc.start()
    rewrap(sink, old, open_with=ALICE, seal_to=BOB.public_key, clock=ticking())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def test_events_say_what_happens(sink: MemorySink) -> None:
    events: list[Event] = []
    old = stored(sink)
    report = rewrap(sink, old, open_with=ALICE, seal_to=BOB.public_key, observer=events.append, clock=ticking())
    assert events[0] == Event(name="rewrap.started", fields={"archive_id": report.archive_id, "previous_id": old})
    assert events[-1].name == "rewrap.finished"
    assert events[-1].fields["stored_bytes"] == report.stored_bytes
    assert {event.name for event in events[1:-1]} == {"backup.stored"}
    events.clear()
    broken = FaultSink(sink, fail_at=8)
    with pytest.raises(SinkUnavailableError):
        rewrap(broken, old, open_with=ALICE, seal_to=BOB.public_key, observer=events.append, clock=ticking())
    assert (events[-1].name, events[-1].fields["error"]) == ("rewrap.failed", "sink_unavailable")


def test_fields_of_a_newer_writer_are_kept() -> None:
    sink = MemorySink()
    old = stored(sink)
    manifest = read_manifest(sink, old)
    sink.delete(manifest_key(old))
    sink.put(manifest_key(old), [attrs.evolve(manifest, extra={"newer": [1]}).to_bytes()])
    report = without_carol(sink, old)
    again = Manifest.from_bytes(sink.contents()[manifest_key(report.archive_id)])
    assert again.extra == {"newer": [1], "rewrapped_from": old}


def test_an_archive_that_contradicts_itself_is_not_made_to_agree(sink: MemorySink) -> None:
    old = stored(sink)
    newer = old.replace("20260408", "20260409")  # somebody stores an old archive under a newer name
    for key, data in sink.contents().items():
        renamed = data.replace(old.encode(), newer.encode()) if key == manifest_key(old) else data
        sink.put(key.replace(old, newer), [renamed])
    before = sink.contents()
    with pytest.raises(IntegrityError, match="contradicts itself: the manifest says") as caught:
        without_carol(sink, newer)
    assert caught.value.kind == "manifest_contradicted"
    assert not [key for key in sink.contents().keys() - before.keys() if key.endswith("manifest.json")]


def test_a_damaged_pin_holds_for_the_new_archive_and_other_damaged_marks_do_not() -> None:
    sink = MemorySink()
    old = stored(sink)
    until = START + dt.timedelta(days=1)
    for mark in (marks.pin(sink, old, until=until, clock=ticking()), marks.tag(sink, old, "pre-upgrade")):
        sink.delete(mark.name.key)
        sink.put(mark.name.key, [b"damaged"])
    report = without_carol(sink, old)
    assert report.carried == ("pinned",)
    standing = find_archive(list_archives(sink), report.archive_id).standing
    assert (standing.pinned, standing.pinned_until, standing.tags, standing.damaged) == (True, None, (), ())


def test_an_adopted_file_keeps_the_stamp_of_its_name() -> None:
    sink = MemorySink()
    payload = {"format_version": 4, "kind": "knowtation-operator-full-export", "users": []}
    text = json.dumps(payload | {"exported_at": "2026-04-09T00:00:00.000Z"}).encode()
    key = "operator-full-export-20260408T153022Z.json.ktb2"
    sink.put(key, Ktb2Codec(seal_to=SYMMETRIC).seal([text]))
    adopt(sink, key, Ktb2Codec(seal_to=SYMMETRIC), clock=lambda: START)
    report = rewrap(sink, key, open_with=SYMMETRIC, seal_to=ALICE.public_key, clock=ticking())
    assert report.archive_id == "operator-full-export-20260408T153022Z-01.json.ktb2"
    assert report.manifest.taken_at == dt.datetime(2026, 4, 9, tzinfo=dt.UTC)
    assert find_archive(list_archives(sink)).archive_id == report.archive_id


def test_the_pipeline_offers_both_verbs(sink: MemorySink) -> None:
    pipeline = Pipeline(
        sink=sink,
        source=SOURCE,
        codec=to(ALICE, CAROL),
        signing_keys=(SIGNER,),
        signatures=SignaturePolicy(trusted=(SIGNER.verify_key,)),
        clock=ticking(),
    )
    old = pipeline.backup().archive_id
    assert [check.opens for check in pipeline.check_keys("latest", [ALICE, BOB, CAROL]).checks] == [True, False, True]
    report = pipeline.rewrap("latest", open_with=ALICE, seal_to=ALICE.public_key)
    assert report.previous_id == old
    assert pipeline.latest().archive_id == report.archive_id
    assert [check.opens for check in pipeline.check_keys("latest", [ALICE, CAROL]).checks] == [True, False]
    with pytest.raises(ConfigurationError):
        attrs.evolve(pipeline, signing_keys=()).rewrap(old, open_with=ALICE, seal_to=BOB.public_key)


def test_targets_that_failed_are_reported() -> None:
    good, bad = MemorySink(), MemorySink()
    mirror = MirrorSink({"good": good, "bad": bad}, quorum=1)
    old = backup(SOURCE, mirror, to(ALICE, CAROL), clock=lambda: START).archive_id
    assert without_carol(mirror, old).outcome is Outcome.OK

    mirror = MirrorSink({"good": good, "bad": MemorySink(permissions="lr")}, quorum=1)
    report = without_carol(mirror, old)
    assert report.outcome is Outcome.PARTIAL
    assert [result.target for result in report.targets if not result.ok] == ["bad"]
    assert payload(good, report.archive_id, DAVE) == PAYLOAD


def test_one_content_counts_once_for_retention() -> None:
    sink = MemorySink()
    days = [START + dt.timedelta(days=day) for day in range(4)]
    ids = [backup(SOURCE, sink, to(ALICE, CAROL), clock=lambda day=day: day).archive_id for day in days]  # type: ignore[misc]
    new = [without_carol(sink, archive_id).archive_id for archive_id in ids[2:]]
    listed = {info.archive_id: info for info in list_archives(sink)}
    assert {old: listed[old].superseded_by for old in ids} == {ids[0]: "", ids[1]: "", ids[2]: new[0], ids[3]: new[1]}
    plan = KeepLast(limit=4).plan(list(listed.values()), now=days[-1] + dt.timedelta(hours=1))
    assert plan.forgotten == (), "re-wrapping two archives pushes no older one out"
    reasons = {decision.archive.archive_id: decision.reason for decision in plan.decisions}
    assert f"made anew as {new[1]}" in reasons[ids[3]]


def test_a_re_wrapped_archive_that_failed_verification_takes_no_place() -> None:
    sink = MemorySink()
    old = stored(sink)
    new = without_carol(sink, old).archive_id
    marks.put_mark(sink, new, MarkVerb.FAILED, {"level": "content", "findings": ["digest_mismatch"]})
    listed = list_archives(sink)
    assert [info.superseded_by for info in listed] == ["", ""]
    assert find_archive(listed).archive_id == old, "what failed is not the latest"
