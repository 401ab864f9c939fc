"""Access files: who opens a repository, what a hostile store may put beside them, and what a crash leaves."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pytest
from repository_stage import StagedSource, contents

from knowtation_backup.codecs.keys import EncryptionKey, KeyKind, Passphrase, PrivateKey, PublicKey
from knowtation_backup.codecs.ktb2 import Argon2Parameters, Ktb2Codec, SealingKey
from knowtation_backup.contracts import ArchiveSink
from knowtation_backup.errors import (
    BackupError,
    BlobNotFoundError,
    ConfigurationError,
    IntegrityError,
    NoMatchingKeyError,
    RepositoryExistsError,
    RepositoryNotFoundError,
    SinkUnavailableError,
    UnsupportedFormatError,
)
from knowtation_backup.model.blobs import BlobInfo
from knowtation_backup.operations.repository.backup import back_up
from knowtation_backup.repository import access
from knowtation_backup.repository.access import access_files, put_access
from knowtation_backup.repository.config import RepositoryConfig
from knowtation_backup.repository.keys import ReadKeys
from knowtation_backup.repository.layout import CONFIG_KEY, access_key
from knowtation_backup.repository.repository import Repository
from knowtation_backup.sinks.fsspec import FsspecSink
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.faults import FaultMoment, FaultSink

CHEAP = Argon2Parameters(memory_kib=19 * 1024, iterations=2, lanes=1)
PAIR = PrivateKey.generate(KeyKind.X25519)
HYBRID = PrivateKey.generate()
RAW = EncryptionKey.generate()
WORDS = Passphrase(text="four plain words here")


def _made(sink: ArchiveSink, *recipients: SealingKey) -> Repository:
    return Repository.create(sink, seal_to=recipients, kind=KeyKind.X25519, kdf=CHEAP)


def _planted(sink: MemorySink, stored: bytes, name: int = 0) -> str:
    key = access_key(name.to_bytes(16, "big"))
    sink.put(key, (stored,))
    return key


@pytest.mark.parametrize(
    ("recipient", "key"),
    [(PAIR.public_key, PAIR), (HYBRID.public_key, HYBRID), (RAW, RAW), (WORDS, WORDS)],
    ids=["x25519", "hybrid", "raw", "passphrase"],
)
def test_every_kind_of_recipient_opens_and_reads(
    recipient: SealingKey, key: PrivateKey | EncryptionKey | Passphrase, tmp_path: object
) -> None:
    sink = FsspecSink(str(tmp_path))
    made = _made(sink, PrivateKey.generate(KeyKind.X25519).public_key, recipient)
    report = back_up(made, StagedSource(files={"a.txt": b"hello"}))
    opened = Repository.open(sink, key)
    assert opened == made
    assert contents(opened, report.archive_id)["a.txt"] == b"hello"
    assert Repository.open(sink, [PrivateKey.generate(), key]).keys == made.keys


def test_options_are_kept() -> None:
    sink = MemorySink()
    Repository.create(sink, seal_to=RAW, grace_seconds=60, max_chain=3, tenant_keys=True)
    opened = Repository.open(sink, RAW)
    assert (opened.config.grace_seconds, opened.config.max_chain, opened.config.tenant_keys) == (60, 3, True)
    assert opened.writer_key.public_key.kind is KeyKind.MLKEM768_X25519


@pytest.mark.parametrize("seconds", [math.inf, math.nan, -1.0, 0, 1e300, True, "3600"])
def test_a_grace_period_is_a_number_that_can_be_waited_for(seconds: Any) -> None:
    sink = MemorySink()
    with pytest.raises(ConfigurationError) as caught:
        Repository.create(sink, seal_to=RAW, grace_seconds=seconds)
    assert (caught.value.kind, sink.contents()) == ("bad_option", {})
    text = (
        '{"format":"knowtation-repository","format_version":1,"max_chain":3,"repository_id":"00","required_features":[]'
    )
    for stored in ("Infinity", "1e400", "1" + 400 * "0", "-1", "[]"):
        with pytest.raises(IntegrityError) as damaged:
            RepositoryConfig.from_bytes(f'{text},"grace_seconds":{stored}}}'.encode())
        assert damaged.value.kind == "bad_config"
    assert RepositoryConfig.from_bytes(f'{text},"grace_seconds":60}}'.encode()).grace_seconds == 60


def test_creating_needs_no_right_to_delete_and_happens_once() -> None:
    sink = MemorySink(permissions="lrw")
    _made(sink, RAW)
    before = sink.contents()
    with pytest.raises(RepositoryExistsError):
        _made(sink, PAIR.public_key)
    assert sink.contents() == before


@pytest.mark.parametrize("recipients", [(), (PAIR,), ("words",)], ids=["nobody", "private", "text"])
def test_who_cannot_be_a_recipient(recipients: Sequence[SealingKey]) -> None:
    sink = MemorySink()
    with pytest.raises(ConfigurationError) as caught:
        _made(sink, *recipients)
    assert caught.value.kind in {"no_recipient", "bad_recipient"}
    assert "words" not in str(caught.value)
    assert not sink.contents()


@pytest.mark.parametrize("keys", [(), (PAIR.public_key,), "secret words"], ids=["nothing", "public", "text"])
def test_what_cannot_open(keys: object) -> None:
    sink = MemorySink()
    _made(sink, RAW)
    with pytest.raises(ConfigurationError) as caught:
        Repository.open(sink, keys)  # type: ignore[arg-type]  # on purpose
    assert caught.value.kind == "bad_recipient"
    assert "secret" not in str(caught.value)


def test_wrong_keys_are_named_and_so_are_the_right_ones() -> None:
    sink = MemorySink()
    _made(sink, RAW, PAIR.public_key, WORDS)
    stranger = PrivateKey.generate(KeyKind.X25519)
    with pytest.raises(NoMatchingKeyError) as caught:
        Repository.open(sink, [stranger, Passphrase(text="not these words")])
    error = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own
    assert set(error.context["wanted"]) == {RAW.key_id, PAIR.key_id}
    assert error.context["given"] == (stranger.key_id,)
    assert RAW.key_id in str(error)
    assert "words" not in f"{error!r}{error}"
    assert stranger.raw.hex() not in repr(error.context)


def test_there_must_be_a_repository_and_access_files() -> None:
    sink = MemorySink()
    with pytest.raises(RepositoryNotFoundError):
        Repository.open(sink, RAW)
    _made(sink, RAW)
    for file in access_files(sink):
        sink.delete(file.key)
    with pytest.raises(BlobNotFoundError) as caught:
        Repository.open(sink, RAW)
    assert caught.value.kind == "no_access_file"


@pytest.mark.parametrize("moment", FaultMoment)
@pytest.mark.parametrize("failing", range(4))
def test_a_crash_while_creating_leaves_no_repository_or_a_whole_one(failing: int, moment: FaultMoment) -> None:
    sink = MemorySink()
    with pytest.raises(SinkUnavailableError):
        _made(FaultSink(sink, fail_from=failing, moment=moment), RAW, PAIR.public_key)
    if CONFIG_KEY in sink.contents():
        assert (failing, moment) == (3, FaultMoment.AFTER)
        assert Repository.open(sink, RAW) == Repository.open(sink, PAIR)
        return
    with pytest.raises(RepositoryNotFoundError):
        Repository.open(sink, RAW)
    made = _made(sink, RAW)
    assert Repository.open(sink, RAW) == made
    assert made.read_keys.repository_id == made.config.repository_id
    if len(access_files(sink)) == 3:  # what the crash left opens, and is of no repository
        with pytest.raises(NoMatchingKeyError):
            Repository.open(sink, PAIR)


def test_a_writer_key_opens_what_it_is_of() -> None:
    sink, other = MemorySink(), MemorySink()
    made = _made(sink, RAW)
    _made(other, RAW)
    opened = Repository.open(sink, made.writer_key)
    assert opened.keys == made.writer_key
    with pytest.raises(ConfigurationError) as caught:
        Repository.open(other, made.writer_key)
    assert caught.value.kind == "wrong_repository"


def test_the_newest_generation_wins_whatever_its_name() -> None:
    sink = MemorySink()
    made = _made(sink, RAW)
    rotated = made.read_keys.rotated(KeyKind.X25519)
    for name in (b"\0" * 16, b"\xff" * 16):
        with_one_more = MemorySink()
        for key, stored in sink.contents().items():
            with_one_more.put(key, (stored,))
        put_access(with_one_more, rotated, RAW, access_id=name)
        assert Repository.open(with_one_more, RAW).keys == rotated


def test_a_passphrase_may_open_a_newer_generation_than_a_key() -> None:
    sink = MemorySink()
    made = _made(sink, RAW)
    rotated = made.read_keys.rotated(KeyKind.X25519)
    put_access(sink, rotated, WORDS, kdf=CHEAP)
    assert Repository.open(sink, [RAW, WORDS]).keys == rotated
    assert Repository.open(sink, RAW).keys == made.keys


# -- a hostile store ------------------------------------------------------------------------------------------


def _bit_flipped(stored: bytes) -> bytes:
    return stored[:100] + bytes([stored[100] ^ 1]) + stored[101:]


@pytest.mark.parametrize(
    "damage",
    [
        lambda stored: stored[:20],
        lambda stored: stored[:-1],
        _bit_flipped,
        lambda stored: stored[:-20] + bytes([stored[-20] ^ 1]) + stored[-19:],
        lambda _stored: b"",
        lambda _stored: b"no access file at all" * 10,
        lambda stored: stored + b"x",
        lambda stored: stored + bytes(access.MAX_ACCESS_BYTES),
    ],
    ids=["cut in the header", "cut", "header bit", "content bit", "empty", "noise", "longer", "huge"],
)
def test_a_damaged_access_file_is_an_error_and_hides_no_other(damage: Callable[[bytes], bytes]) -> None:
    sink = MemorySink()
    made = _made(sink, RAW)
    (file,) = access_files(sink)
    sink.delete(file.key)
    sink.put(file.key, (damage(file.stored),))
    with pytest.raises((IntegrityError, NoMatchingKeyError, UnsupportedFormatError, BackupError)) as caught:
        Repository.open(sink, RAW)
    assert not caught.value.retryable
    assert not isinstance(caught.value, ConfigurationError)
    put_access(sink, made.read_keys, RAW)
    assert Repository.open(sink, RAW) == made


def test_every_cut_and_every_flipped_byte_is_noticed() -> None:
    sink = MemorySink()
    _made(sink, RAW)
    (file,) = access_files(sink)
    stored = file.stored
    for at in range(0, len(stored), 7):
        for changed in (stored[:at], stored[:at] + bytes([stored[at] ^ 0x10]) + stored[at + 1 :]):
            sink.delete(file.key)
            sink.put(file.key, (changed,))
            with pytest.raises(BackupError) as caught:
                Repository.open(sink, RAW)
            assert not isinstance(caught.value, ConfigurationError)
    sink.delete(file.key)
    sink.put(file.key, (stored,))
    Repository.open(sink, RAW)


def test_secrets_that_did_not_found_the_repository_are_refused() -> None:
    """Whoever knows a public key and a writer key could else have backups sealed to a key of their own."""
    sink = MemorySink()
    made = _made(sink, PAIR.public_key)
    known = made.writer_key
    theirs = ReadKeys(
        repository_id=known.repository_id,
        id_key=known.id_key,
        index_key=known.index_key,
        private_keys={1: PrivateKey.generate(KeyKind.X25519), 9: PrivateKey.generate(KeyKind.X25519)},
    )
    put_access(sink, theirs, PAIR.public_key)
    assert Repository.open(sink, PAIR) == made
    for file in access_files(sink):
        if file.secrets([PAIR]) == made.keys:
            sink.delete(file.key)
    with pytest.raises(IntegrityError) as caught:
        Repository.open(sink, PAIR)
    assert caught.value.kind == "bad_access"


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"format_version": 2},
        {"id_key": "00"},
        {"index_key": 7},
        {"repository_keys": [[0, HYBRID.to_text()]]},
        {"repository_keys": [[1, "kb-private-x25519:AAAA"]]},
        {"repository_keys": []},
        {"repository_keys": {"1": 2}},
        {"repository_id": None},
    ],
    ids="-".join,
)
def test_secrets_are_parsed_strictly_and_never_repeated(change: dict[str, object]) -> None:
    sink = MemorySink()
    made = _made(sink, RAW)
    (file,) = access_files(sink)
    value = json.loads(access._to_bytes(made.read_keys)) | change
    sink.delete(file.key)
    stored = b"".join(Ktb2Codec(seal_to=RAW).seal((json.dumps(value).encode(),)))
    sink.put(file.key, (stored,))
    with pytest.raises((IntegrityError, UnsupportedFormatError)) as caught:
        Repository.open(sink, RAW)
    shown = f"{caught.value!r}{caught.value}{caught.value.context}{caught.value.__cause__!r}"
    for secret in (made.read_keys.id_key.hex(), made.read_keys.private_keys[1].to_text()):
        assert secret not in shown


def test_not_json_at_all() -> None:
    sink = MemorySink()
    _made(sink, RAW)
    (file,) = access_files(sink)
    for content in (b"", b"[1, 2", b"\xff", b"[" * 100_000, b"7"):
        sink.delete(file.key)
        sink.put(file.key, Ktb2Codec(seal_to=RAW).seal((content,)))
        with pytest.raises(IntegrityError) as caught:
            Repository.open(sink, RAW)
        assert caught.value.kind == "bad_access"


class _Counting(MemorySink):
    reads = 0

    def _read(self, key: str, start: int, size_bytes: int | None) -> Iterator[bytes]:
        self.reads += 1
        return super()._read(key, start, size_bytes)


def test_work_is_bounded_however_many_files_there_are() -> None:
    sink = _Counting()
    made = _made(sink, RAW)
    stranger = b"".join(Ktb2Codec(seal_to=EncryptionKey.generate()).seal((b"x",)))
    for name in range(access.MAX_ACCESS_FILES + 50):
        _planted(sink, stranger, name=(0xFF << 120) + name)
    sink.reads = 0
    assert Repository.open(sink, RAW) == made
    assert sink.reads <= access.MAX_ACCESS_FILES + 1
    with pytest.raises(NoMatchingKeyError) as caught:
        Repository.open(sink, EncryptionKey.generate())
    assert "1000 access files" in str(caught.value)
    assert len(str(caught.value)) < 1_000


def test_passphrases_come_last_cheapest_first_and_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = MemorySink()
    made = _made(sink, WORDS)
    tried: list[int] = []
    secrets_of = access.AccessFile.secrets

    def counted(file: access.AccessFile, keys: Sequence[PrivateKey | EncryptionKey | Passphrase]) -> ReadKeys:
        if any(isinstance(key, Passphrase) for key in keys):
            tried.append(file.passphrase_work_kib)
        return secrets_of(file, keys)

    monkeypatch.setattr(access.AccessFile, "secrets", counted)
    dearer = Argon2Parameters(memory_kib=19 * 1024, iterations=3, lanes=1)
    planted = b"".join(Ktb2Codec(seal_to=Passphrase(text="of somebody else"), kdf=dearer).seal((b"x",)))
    for name in range(5):
        _planted(sink, planted, name)
    cheap, dear = 19 * 1024 * 2, 19 * 1024 * 3
    assert Repository.open(sink, WORDS) == made
    assert tried == [cheap, *[dear] * 5]
    monkeypatch.setattr(access, "MAX_PASSPHRASE_WORK_KIB", cheap + dear)
    tried.clear()
    assert Repository.open(sink, WORDS) == made
    assert tried == [cheap, dear]


def test_a_key_is_tried_without_any_argon2(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = MemorySink()
    made = _made(sink, WORDS, RAW)

    def never(*_args: object) -> bytes:
        raise AssertionError

    monkeypatch.setattr("knowtation_backup.codecs._slots._argon2id", never)
    assert Repository.open(sink, RAW) == made


def test_a_store_that_cannot_be_reached_is_not_damage() -> None:
    sink = MemorySink()
    _made(sink, RAW)
    for failing in range(3):
        with pytest.raises(SinkUnavailableError):
            Repository.open(FaultSink(sink, fail_at=failing), RAW)


def test_an_answer_that_was_lost_is_no_other_file() -> None:
    class _Twice(MemorySink):
        """Sends everything twice, as a client does that lost an answer."""

        def _put(self, key: str, chunks: Iterable[bytes]) -> BlobInfo:
            stored = list(chunks)
            super()._put(key, stored)
            return super()._put(key, stored)

    sink = _Twice()
    made = _made(sink, RAW)
    assert Repository.open(sink, RAW) == made
    assert len(sink.contents()) == 2


def test_nothing_secret_is_shown() -> None:
    sink = MemorySink()
    made = _made(sink, RAW, PAIR.public_key)
    files = access_files(sink)
    shown = repr(made) + repr(made.keys) + repr(made.writer_key) + repr(files)
    keys = made.read_keys
    for secret in (keys.id_key, keys.index_key, keys.private_keys[1].raw, RAW.raw):
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown
    public: PublicKey = made.writer_key.public_key
    assert public.key_id in shown
