"""Recipients of a repository: added, removed, rotated, and what stays open to whom."""

from __future__ import annotations

from collections.abc import Iterable

import attrs
import pytest
from repository_stage import StagedSource, contents

from knowtation_backup.codecs.keys import EncryptionKey, KeyKind, Passphrase, PrivateKey
from knowtation_backup.codecs.ktb2 import Argon2Parameters, SealingKey
from knowtation_backup.errors import (
    ConfigurationError,
    NoMatchingKeyError,
    PlanStaleError,
    SinkUnavailableError,
)
from knowtation_backup.model.blobs import BlobInfo
from knowtation_backup.model.events import Event
from knowtation_backup.model.reports import Outcome
from knowtation_backup.operations.repository.backup import back_up
from knowtation_backup.operations.repository.recipients import (
    RecipientAction,
    add_recipients,
    apply_recipients,
    list_recipients,
    plan_remove_recipients,
    plan_rotate,
)
from knowtation_backup.repository.layout import ACCESS_PREFIX
from knowtation_backup.repository.repository import Repository
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.faults import FaultMoment, FaultSink

CHEAP = Argon2Parameters(memory_kib=19 * 1024, iterations=2, lanes=1)
OWNER, GUEST, THIRD = (PrivateKey.generate(KeyKind.X25519) for _ in range(3))
RAW = EncryptionKey.generate()
WORDS = Passphrase(text="four plain words here")


@pytest.fixture
def repository() -> Repository:
    sink = MemorySink()
    seal_to: list[SealingKey] = [OWNER.public_key, GUEST.public_key, WORDS]
    return Repository.create(sink, seal_to=seal_to, kind=KeyKind.X25519, kdf=CHEAP)


def _memory(repository: Repository) -> MemorySink:
    assert isinstance(repository.sink, MemorySink)
    return repository.sink


def _data(repository: Repository) -> dict[str, bytes]:
    stored = _memory(repository).contents()
    return {key: data for key, data in stored.items() if not key.startswith(ACCESS_PREFIX)}


def _archive(repository: Repository, word: bytes) -> str:
    return back_up(repository, StagedSource(files={"a.txt": word})).archive_id


def _read(repository: Repository, archive_id: str) -> object:
    return contents(repository, archive_id)["a.txt"]


def test_recipients_are_listed_without_any_key(repository: Repository) -> None:
    writer = Repository.open(repository.sink, repository.writer_key)
    listing = list_recipients(writer)
    kinds = {(each.kind, each.key_id) for each in listing.recipients}
    assert kinds == {("x25519", OWNER.key_id), ("x25519", GUEST.key_id), ("passphrase", None)}
    assert (listing.outcome, listing.exit_code) == (Outcome.OK, 0)
    assert OWNER.key_id in str(listing)
    _memory(repository).put(f"{ACCESS_PREFIX}{'0' * 32}.access", (b"noise",))
    listing = list_recipients(writer)
    assert [finding.code for finding in listing.findings] == ["access_unreadable"]
    assert listing.outcome is Outcome.DIFFERENT


def test_adding_writes_an_access_file_and_nothing_else(repository: Repository) -> None:
    archive_id = _archive(repository, b"before")
    before = _memory(repository).contents()
    events: list[Event] = []
    report = add_recipients(repository, [THIRD.public_key, RAW], opens_with=OWNER, observer=events.append)
    after = _memory(repository).contents()
    assert set(after) - set(before) == set(report.written)
    assert {key: after[key] for key in before} == before
    assert (len(report.written), report.removed, report.outcome) == (2, (), Outcome.OK)
    for key in (THIRD, RAW, OWNER):
        assert _read(Repository.open(repository.sink, key), archive_id) == b"before"
    assert [event.name for event in events] == ["recipients.changed"]


def test_adding_needs_the_key_of_a_recipient(repository: Repository) -> None:
    before = _memory(repository).contents()
    with pytest.raises(NoMatchingKeyError):
        add_recipients(repository, RAW, opens_with=THIRD)
    with pytest.raises(ConfigurationError):
        add_recipients(repository, [], opens_with=OWNER)
    assert _memory(repository).contents() == before


def test_adding_with_a_stale_handle_gives_the_newest_secrets(repository: Repository) -> None:
    plan = plan_rotate(repository, seal_to=OWNER.public_key, opens_with=OWNER, kind=KeyKind.X25519)
    rotated = apply_recipients(repository, plan).repository
    add_recipients(repository, RAW, opens_with=OWNER)
    assert Repository.open(repository.sink, RAW).keys == rotated.keys


@pytest.mark.parametrize("by", ["key id", "access id", "first digits"])
def test_removing_deletes_its_access_files_and_says_what_remains(repository: Repository, by: str) -> None:
    archive_id = _archive(repository, b"before")
    data = _data(repository)
    (guest,) = (each for each in list_recipients(repository).recipients if each.key_id == GUEST.key_id)
    named = {"key id": GUEST.key_id, "access id": guest.access_id, "first digits": guest.access_id[:8]}[by]
    plan = plan_remove_recipients(repository, named, opens_with=OWNER)
    assert plan.removes == plan.dropped == (guest,)
    assert f"LOSES ACCESS to what is written later: x25519 {GUEST.key_id}" in str(plan)
    report = apply_recipients(repository, plan)
    assert report.removed == (guest.key,)
    assert {finding.code for finding in report.findings} == {"removed_remembers", "key_not_rotated"}
    assert _data(repository) == data
    with pytest.raises(NoMatchingKeyError):
        Repository.open(repository.sink, GUEST)
    for key in (OWNER, WORDS):
        assert _read(Repository.open(repository.sink, key), archive_id) == b"before"


def test_a_passphrase_is_removed_by_its_access_file(repository: Repository) -> None:
    (words,) = (each for each in list_recipients(repository).recipients if each.kind == "passphrase")
    apply_recipients(repository, plan_remove_recipients(repository, words.access_id, opens_with=OWNER))
    with pytest.raises(NoMatchingKeyError):
        Repository.open(repository.sink, WORDS)


def test_nobody_locks_itself_out(repository: Repository) -> None:
    everybody = [each.access_id for each in list_recipients(repository).recipients]
    for named in (OWNER.key_id, everybody):
        with pytest.raises(ConfigurationError) as caught:
            plan_remove_recipients(repository, named, opens_with=OWNER)
        assert caught.value.kind == "locked_out"
    with pytest.raises(ConfigurationError) as caught:
        plan_rotate(repository, seal_to=GUEST.public_key, opens_with=OWNER)
    assert caught.value.kind == "locked_out"
    plan = plan_remove_recipients(repository, OWNER.key_id, opens_with=[OWNER, WORDS])
    apply_recipients(repository, plan)
    assert Repository.open(repository.sink, WORDS).keys == repository.keys


@pytest.mark.parametrize("named", ["nobody", "", "ab", "0" * 32])
def test_a_name_that_names_nobody(repository: Repository, named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        plan_remove_recipients(repository, named, opens_with=OWNER)
    assert caught.value.kind == "no_such_recipient"


def test_rotating_changes_no_pack_index_or_archive_and_old_packs_still_read(repository: Repository) -> None:
    old = _archive(repository, b"before")
    data = _data(repository)
    old_writer = repository.writer_key
    plan = plan_rotate(repository, seal_to=[OWNER.public_key, WORDS], opens_with=OWNER, kind=KeyKind.X25519, kdf=CHEAP)
    assert [each.key_id for each in plan.dropped] == [GUEST.key_id]
    assert "generation 2" in str(plan)
    report = apply_recipients(repository, plan)
    assert _data(repository) == data
    assert (report.generation, len(report.written), len(report.removed)) == (2, 2, 3)
    codes = {finding.code for finding in report.findings}
    assert codes == {"removed_remembers", "old_writer_keys", "index_key_stays"}
    new = _archive(report.repository, b"after")
    for key in (OWNER, WORDS):
        opened = Repository.open(repository.sink, key)
        assert opened.keys == report.repository.keys
        assert (_read(opened, old), _read(opened, new)) == (b"before", b"after")
    with pytest.raises(NoMatchingKeyError):
        Repository.open(repository.sink, GUEST)
    with pytest.raises(NoMatchingKeyError) as caught:  # what the guest kept opens the past alone
        _read(repository, new)
    assert caught.value.context["generation"] == 2
    assert _read(repository, old) == b"before"
    # an old writer key still works, and seals to the old generation
    late = _archive(Repository.open(repository.sink, old_writer), b"late")
    assert _read(repository, late) == b"late"


def test_rotated_writers_still_know_what_is_there(repository: Repository) -> None:
    source = StagedSource(images={"memory.bin": bytes(range(256)) * 4096})
    back_up(repository, source)
    plan = plan_rotate(repository, seal_to=OWNER.public_key, opens_with=OWNER, kind=KeyKind.X25519)
    writer = Repository.open(repository.sink, apply_recipients(repository, plan).repository.writer_key)
    report = back_up(writer, source)
    assert not report.sections[0].stored


def test_two_hosts_cannot_make_one_generation(repository: Repository) -> None:
    plans = [plan_rotate(repository, seal_to=OWNER.public_key, opens_with=OWNER, kind=KeyKind.X25519) for _ in range(2)]
    apply_recipients(repository, plans[0])
    before = _memory(repository).contents()
    with pytest.raises(PlanStaleError):
        apply_recipients(repository, plans[1])
    assert _memory(repository).contents() == before


def test_the_second_of_two_rotations_at_once_loses() -> None:
    sink = MemorySink()
    repository = Repository.create(sink, seal_to=OWNER.public_key, kind=KeyKind.X25519)
    plans = [plan_rotate(repository, seal_to=OWNER.public_key, opens_with=OWNER, kind=KeyKind.X25519) for _ in range(2)]

    class _Racing(FaultSink):
        def _put(self, key: str, chunks: Iterable[bytes]) -> BlobInfo:
            apply_recipients(repository, plans[0])
            return sink.put(key, chunks)

    racing = attrs.evolve(repository, sink=_Racing(sink))
    with pytest.raises(PlanStaleError) as caught:
        apply_recipients(racing, plans[1])
    assert "another host" in str(caught.value)
    assert max(Repository.open(sink, OWNER).read_keys.private_keys) == 2


def test_plans_are_applied_only_while_they_are_true(repository: Repository) -> None:
    plan = plan_remove_recipients(repository, GUEST.key_id, opens_with=OWNER)
    add_recipients(repository, RAW, opens_with=OWNER)
    before = _memory(repository).contents()
    with pytest.raises(PlanStaleError):
        apply_recipients(repository, plan)
    assert _memory(repository).contents() == before
    other = Repository.create(MemorySink(), seal_to=OWNER.public_key, kind=KeyKind.X25519)
    with pytest.raises(ConfigurationError) as caught:
        apply_recipients(other, plan)
    assert caught.value.kind == "wrong_repository"


def test_a_store_that_keeps_everything(repository: Repository) -> None:
    sink = MemorySink(permissions="lrw")
    for key, data in _memory(repository).contents().items():
        sink.put(key, (data,))
    kept = Repository.open(sink, OWNER)
    plan = plan_rotate(kept, seal_to=OWNER.public_key, opens_with=OWNER, kind=KeyKind.X25519)
    report = apply_recipients(kept, plan)
    assert (report.outcome, report.exit_code, report.removed) == (Outcome.PARTIAL, 3, ())
    assert set(report.left) == {each.key for each in plan.removes}
    assert "access_left" in {finding.code for finding in report.findings}
    assert "access_left" in str(report)
    assert Repository.open(sink, OWNER).keys == report.repository.keys
    assert max(Repository.open(sink, GUEST).read_keys.private_keys) == 1  # the past stays open to it, the future not


@pytest.mark.parametrize("moment", FaultMoment)
def test_an_interrupted_rotation_locks_nobody_out(repository: Repository, moment: FaultMoment) -> None:
    old = _archive(repository, b"before")
    plan = plan_rotate(repository, seal_to=[OWNER.public_key, RAW], opens_with=OWNER, kind=KeyKind.X25519)
    start = _memory(repository).contents()
    for failing in range(40):
        sink = MemorySink()
        for key, data in start.items():
            sink.put(key, (data,))
        faulty = attrs.evolve(repository, sink=FaultSink(sink, fail_from=failing, moment=moment))
        try:
            apply_recipients(faulty, plan)
        except SinkUnavailableError:
            opened = Repository.open(sink, OWNER)
            assert _read(opened, old) == b"before"
            again = plan_rotate(opened, seal_to=[OWNER.public_key, RAW], opens_with=OWNER, kind=KeyKind.X25519)
            apply_recipients(opened, again)
            assert Repository.open(sink, RAW).keys == Repository.open(sink, OWNER).keys
        else:
            return
    raise AssertionError


def test_plans_and_reports_show_no_secret(repository: Repository) -> None:
    plan = plan_rotate(repository, seal_to=[RAW, WORDS], opens_with=[RAW, OWNER, WORDS], kdf=CHEAP)
    report = apply_recipients(repository, plan)
    shown = f"{plan!r}{plan}{report!r}{report}"
    assert plan.action is RecipientAction.ROTATE
    keys = report.repository.read_keys
    for secret in (RAW.raw, OWNER.raw, keys.id_key, keys.index_key, *(key.raw for key in keys.private_keys.values())):
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown
    assert WORDS.text not in shown
