"""Which keys open a repository, and which of its access files open with none."""

import pytest

from knowtation_backup.codecs.keys import EncryptionKey, KeyKind, Passphrase, PrivateKey
from knowtation_backup.codecs.ktb2 import Argon2Parameters, Ktb2Codec, SealingKey
from knowtation_backup.errors import (
    ConfigurationError,
    RepositoryNotFoundError,
    SinkPermissionError,
    SinkUnavailableError,
)
from knowtation_backup.model.reports import Outcome
from knowtation_backup.operations.repository.key_check import RepositoryKeyReport, check_repository_keys
from knowtation_backup.operations.repository.recipients import apply_recipients, plan_rotate
from knowtation_backup.repository import access
from knowtation_backup.repository.access import access_files, put_access
from knowtation_backup.repository.keys import ReadKeys
from knowtation_backup.repository.layout import CONFIG_KEY, access_key
from knowtation_backup.repository.repository import Repository
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.faults import FaultSink

CHEAP = Argon2Parameters(memory_kib=19 * 1024, iterations=2, lanes=1)
RAW, PAIR, STRANGER = EncryptionKey.generate(), PrivateKey.generate(KeyKind.X25519), EncryptionKey.generate()
WORDS, OTHER_WORDS = Passphrase(text="four plain words here"), Passphrase(text="four other words there")


@pytest.fixture
def sink() -> MemorySink:
    sink = MemorySink()
    recipients: list[SealingKey] = [RAW, PAIR.public_key, WORDS]
    Repository.create(sink, seal_to=recipients, kind=KeyKind.X25519, kdf=CHEAP)
    reading = MemorySink(permissions="lr")
    reading._blobs = sink._blobs
    return reading


def _writable(sink: MemorySink) -> MemorySink:
    writable = MemorySink()
    writable._blobs = sink._blobs
    return writable


def _opens(report: RepositoryKeyReport) -> list[int | None]:
    return [check.generation for check in report.checks]


def test_every_key_is_tried_and_files_of_others_are_named(sink: MemorySink) -> None:
    report = check_repository_keys(sink, [STRANGER, WORDS, RAW, OTHER_WORDS])
    assert [check.key for check in report.checks] == [STRANGER, WORDS, RAW, OTHER_WORDS]
    assert _opens(report) == [None, 1, 1, None]
    assert (report.opens, report.outcome, report.damaged) == (True, Outcome.PARTIAL, ())
    assert [file.ways for file in report.closed] == [(f"x25519 {PAIR.key_id}",)]
    assert sorted(len(file.opened_by) for file in report.files) == [0, 1, 1]
    assert sorted(file.access_id for file in report.files) == [file.access_id for file in access_files(sink)]
    shown = f"{report!r}{report}"
    assert "2 of 4 key(s) open" in shown
    assert not any(secret in shown for secret in ("plain words", RAW.raw.hex(), PAIR.raw.hex()))
    assert check_repository_keys(sink, [RAW, PAIR, WORDS]).outcome is Outcome.OK
    assert (check_repository_keys(sink, STRANGER).outcome, check_repository_keys(sink, STRANGER).exit_code) == (
        Outcome.FAILED,
        int(Outcome.FAILED),
    )


def test_one_file_may_open_with_several_keys(sink: MemorySink) -> None:
    keys = Repository.open(sink, RAW).read_keys
    for file in access_files(sink):
        del sink._blobs[file.key]
    stored = b"".join(Ktb2Codec(seal_to=[RAW, PAIR.public_key]).seal((access._to_bytes(keys),)))
    _writable(sink).put(access_key(bytes(16)), (stored,))
    (checked,) = check_repository_keys(sink, [PAIR, STRANGER, RAW]).files
    assert (checked.opened_by, checked.generation) == ((PAIR, RAW), 1)


def test_keys_that_lead_to_an_older_generation_show_it(sink: MemorySink) -> None:
    writable = _writable(sink)
    repository = Repository.open(writable, RAW)
    old = writable.contents()
    plan = plan_rotate(repository, seal_to=[RAW], opens_with=RAW, kind=KeyKind.X25519, kdf=CHEAP)
    apply_recipients(repository, plan)
    for key, stored in old.items():  # a store that does not let go of them
        if key.startswith("keys/") and key not in writable.contents():
            writable.put(key, (stored,))
    assert _opens(check_repository_keys(sink, [RAW, PAIR])) == [2, 1]


def test_damage_and_forgeries_are_told_and_hide_nothing(sink: MemorySink) -> None:
    writable = _writable(sink)
    for number, stored in enumerate((b"", b"no access file", b"".join(Ktb2Codec(seal_to=RAW).seal((b"{}",))))):
        writable.put(access_key(number.to_bytes(16, "big")), (stored,))
    forged = put_access(writable, ReadKeys.generate(KeyKind.X25519), PAIR.public_key)
    report = check_repository_keys(sink, [RAW, PAIR])
    assert _opens(report) == [1, 1]
    assert report.outcome is Outcome.DIFFERENT
    assert len(report.damaged) == 4
    assert {file.access_id for file in report.damaged} >= {forged[5:37]}


def test_damage_that_only_a_passphrase_shows_is_told(sink: MemorySink) -> None:
    stored = b"".join(Ktb2Codec(seal_to=WORDS, kdf=CHEAP).seal((b"{}",)))
    _writable(sink).put(access_key(bytes(16)), (stored,))
    assert check_repository_keys(sink, RAW).damaged == ()
    (file,) = check_repository_keys(sink, [RAW, WORDS]).damaged
    assert (file.access_id, file.error and file.error.kind) == (32 * "0", "bad_access")


def test_passphrases_are_tried_within_bounds(sink: MemorySink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "MAX_PASSPHRASE_WORK_KIB", CHEAP.memory_kib * CHEAP.iterations)
    report = check_repository_keys(sink, [WORDS, RAW])
    assert _opens(report) == [1, 1]
    report = check_repository_keys(sink, [OTHER_WORDS, WORDS, RAW])
    assert _opens(report) == [None, None, 1]
    assert [file.ways for file in report.files if not file.passphrases_tried] == [("passphrase",)]
    assert "passphrases not tried" in str(report)


def test_what_is_no_statement_about_keys_is_raised(sink: MemorySink) -> None:
    with pytest.raises(RepositoryNotFoundError):
        check_repository_keys(MemorySink(), RAW)
    for keys in ([], "words", [PAIR.public_key], Repository.open(sink, RAW).writer_key):
        with pytest.raises(ConfigurationError) as caught:
            check_repository_keys(sink, keys)  # type: ignore[arg-type]  # refused
        assert caught.value.kind == "bad_recipient"
    with pytest.raises(SinkUnavailableError):
        check_repository_keys(FaultSink(sink, fail_from=2), RAW)
    hidden = MemorySink(permissions="l")
    hidden._blobs = sink._blobs
    with pytest.raises(SinkPermissionError):
        check_repository_keys(hidden, RAW)
    for file in access_files(sink):
        del sink._blobs[file.key]
    assert list(sink.contents()) == [CONFIG_KEY]
    report = check_repository_keys(sink, RAW)
    assert (report.files, report.opens) == ((), False)
