"""A host that has a writer key and nothing else: it does all the daily work, and reads back not one byte of content."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterator

import attrs
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from repository_stage import MOMENT, StagedSource, contents

from knowtation_backup.codecs.hpke import open_sealed
from knowtation_backup.codecs.keys import EncryptionKey, KeyKind, Passphrase, PrivateKey
from knowtation_backup.codecs.ktb2 import Argon2Parameters, OpeningKey, SealingKey
from knowtation_backup.errors import BackupError, ConfigurationError, NoMatchingKeyError
from knowtation_backup.model.reports import Coverage
from knowtation_backup.operations.repository.backup import RepositoryBackupReport, back_up
from knowtation_backup.operations.repository.catalog import list_archives
from knowtation_backup.operations.repository.forgetting import apply_forget, plan_delete, plan_empty_trash
from knowtation_backup.operations.repository.pruning import apply_prune, plan_prune
from knowtation_backup.operations.repository.recipients import list_recipients
from knowtation_backup.operations.repository.verifying import verify_all
from knowtation_backup.repository.frames import FileKind, open_file
from knowtation_backup.repository.keys import WriterKey
from knowtation_backup.repository.layout import INDEX_PREFIX, PACK_PREFIX, TENANT_PREFIX
from knowtation_backup.repository.repository import Repository
from knowtation_backup.sinks.memory import MemorySink

CHEAP = Argon2Parameters(memory_kib=19 * 1024, iterations=2, lanes=1)
PAIR = PrivateKey.generate(KeyKind.X25519)
HYBRID = PrivateKey.generate()
RAW = EncryptionKey.generate()
WORDS = Passphrase(text="four plain words here")
RECIPIENTS: dict[str, tuple[SealingKey, OpeningKey]] = {
    "x25519": (PAIR.public_key, PAIR),
    "hybrid": (HYBRID.public_key, HYBRID),
    "raw": (RAW, RAW),
    "passphrase": (WORDS, WORDS),
}
PLANTED = b"PLANTED-SECRET-7f3a"
OWNER = b"OWNER-NAME-91c2"
PAGE = 4096


@attrs.define
class Host:
    """A host that writes; its store has a clock of its own."""

    recipient: SealingKey
    kind: KeyKind
    now: dt.datetime = MOMENT
    sink: MemorySink = attrs.field(init=False)
    repository: Repository = attrs.field(init=False)
    image: bytearray = attrs.field(init=False)
    notes: dict[tuple[bytes, bytes], bytes] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.sink = MemorySink(clock=lambda: self.now)
        made = Repository.create(self.sink, seal_to=self.recipient, kind=self.kind, tenant_keys=True, kdf=CHEAP)
        key = WriterKey.from_text(made.writer_key.to_text())
        self.repository = Repository.open(self.sink, key)
        noise = random.Random(5)  # noqa: S311 - no secret
        self.image = bytearray(b"".join(PLANTED + noise.randbytes(PAGE - len(PLANTED)) for _ in range(64)))
        self.notes = {(OWNER, b"note %d" % n): b"%b note %d" % (PLANTED, n) for n in range(20)}

    def back_up(self) -> RepositoryBackupReport:
        self.now += dt.timedelta(hours=1)
        source = StagedSource(
            images={"memory.bin": bytes(self.image)},
            files={"module.wasm": PLANTED * 50},
            records={"notes": dict(self.notes)},
            taken_at=self.now,
        )
        return back_up(self.repository, source, clock=lambda: self.now)

    @property
    def key(self) -> WriterKey:
        return self.repository.writer_key


@pytest.fixture(params=RECIPIENTS)
def recipient(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def host(recipient: str) -> Host:
    kind = KeyKind.X25519 if recipient in {"x25519", "raw"} else KeyKind.MLKEM768_X25519
    return Host(recipient=RECIPIENTS[recipient][0], kind=kind)


def _reachable(host: Host) -> set[bytes]:
    """Every 32 bytes that a writer key holds, that follow from it, and that it opens or may read in the store."""
    key = host.key
    found = {key.id_key, key.index_key, key._names_key, key._values_key, key.public_key.raw[-32:]}
    found |= {key.owner_secret(OWNER), key.zero_hash * 2, key.repository_id * 2, bytes(32)}
    raw = key.public_key.raw
    found |= {raw[at : at + 32] for at in range(0, len(raw), 32)}
    for plain in _opened(host.sink, key):
        found |= {plain[at : at + 32] for at in range(len(plain) - 31)}
    return found


def _opened(sink: MemorySink, key: WriterKey) -> Iterator[bytes]:
    """What opens with the writer key in the way the format says, whatever kind an object is taken for."""
    for stored in sink.contents().values():
        for kind in FileKind:
            try:
                yield b"".join(open_file(kind, stored, key))
            except BackupError:
                continue


def test_no_object_gives_content_to_anything_reachable_from_a_writer_key(host: Host) -> None:
    host.back_up()
    opened = list(_opened(host.sink, host.key))
    assert len(opened) >= 2  # an index and a manifest: the search is able to open something
    everything = [*opened, *host.sink.contents().values(), *(key.encode() for key in host.sink.contents())]
    for data in everything:
        assert PLANTED not in data
        assert OWNER not in data
        for at in (0, 64 * 1024, 200 * 1024):  # nor any other content: noise does not occur by chance
            assert bytes(host.image[at + 100 : at + 116]) not in data


def test_no_key_reachable_from_a_writer_key_opens_an_object_that_is_not_its(host: Host) -> None:
    host.back_up()
    candidates = _reachable(host)
    assert len(candidates) > 100
    closed = {
        key: stored for key, stored in host.sink.contents().items() if key.startswith((PACK_PREFIX, TENANT_PREFIX))
    }
    assert len(closed) >= 2
    for stored in closed.values():
        head = 10 + int.from_bytes(stored[8:10], "big")
        length = int.from_bytes(stored[head : head + 4], "big")
        frame = stored[head + 4 : head + 4 + length]
        for candidate in candidates:
            for last in (b"\0", b"\1"):
                with pytest.raises(InvalidTag):
                    AESGCM(candidate).decrypt(bytes(11) + last, frame, None)


def test_no_key_reachable_from_a_writer_key_opens_key_material_or_access_files(host: Host) -> None:
    host.back_up()
    key = host.key
    candidates = [*sorted(_reachable(host))[::20], key.id_key, key.index_key, key._names_key, key._values_key]
    stored = host.sink.contents()
    packs = [data for name, data in stored.items() if name.startswith((PACK_PREFIX, TENANT_PREFIX))]
    for candidate in candidates:
        private = PrivateKey(kind=key.public_key.kind, raw=candidate)
        for data in packs:
            material = data[10 : 10 + int.from_bytes(data[8:10], "big")]
            info = b"knowtation-repository-v1" + key.repository_id + data[:8]
            assert open_sealed(private, material, info=info) is None
        keys: list[OpeningKey] = [EncryptionKey(raw=candidate)]
        keys += [PrivateKey(kind=kind, raw=candidate) for kind in KeyKind]
        with pytest.raises(NoMatchingKeyError):
            Repository.open(host.sink, keys)


def test_the_doors_for_readers_are_closed(host: Host) -> None:
    with pytest.raises(ConfigurationError) as caught:
        _ = host.repository.read_keys
    assert caught.value.kind == "write_only"


def test_what_it_wrote_opens_for_the_recipient_and_for_nobody_else(host: Host, recipient: str) -> None:
    report = host.back_up()
    opened = Repository.open(host.sink, RECIPIENTS[recipient][1])
    found = contents(opened, report.archive_id)
    assert found["memory.bin"] == bytes(host.image)
    assert found["notes"] == set(host.notes.values())
    others = [key for name, (_, key) in RECIPIENTS.items() if name not in {recipient, "passphrase"}]
    with pytest.raises(NoMatchingKeyError):
        Repository.open(host.sink, others)


def test_it_deduplicates(host: Host) -> None:
    first = host.back_up()
    same = host.back_up()
    assert not any(section.stored for section in same.sections if section.name != "details.json")
    host.image[5 * PAGE : 5 * PAGE + 4] = b"new!"
    host.notes[OWNER, b"note 3"] = b"changed"
    changed = host.back_up()
    stored = {section.name: section.stored for section in changed.sections}
    assert (stored["memory.bin"], stored["notes"], stored["module.wasm"]) == (1, 1, 0)
    assert changed.new_bytes < first.new_bytes / 10


def test_it_lists_verifies_forgets_and_prunes(host: Host, recipient: str) -> None:
    archives = [host.back_up().archive_id]
    for seed in (7, 8):
        host.image[:] = random.Random(seed).randbytes(len(host.image))  # noqa: S311 - no secret
        archives.append(host.back_up().archive_id)
    first, middle, last = archives
    writer = host.repository
    assert {info.archive_id for info in list_archives(writer)} == set(archives)
    assert len(list_recipients(writer).recipients) == 1
    verified = verify_all(writer, clock=lambda: host.now)
    assert verified.ok
    assert verified.covered is Coverage.STORED
    packs = sum(key.startswith(PACK_PREFIX) for key in host.sink.contents())

    apply_forget(writer, plan_delete(writer, [middle], now=host.now), clock=lambda: host.now)
    host.now += dt.timedelta(days=30)
    apply_forget(writer, plan_empty_trash(writer, now=host.now), clock=lambda: host.now)
    for _ in range(2):
        apply_prune(writer, plan_prune(writer), clock=lambda: host.now)
        host.now += writer.config.grace * 2
    assert writer.archive_ids() == [first, last]
    assert sum(key.startswith(PACK_PREFIX) for key in host.sink.contents()) == packs - 1
    assert [key for key in host.sink.contents() if key.startswith(INDEX_PREFIX)]
    found = contents(Repository.open(host.sink, RECIPIENTS[recipient][1]), last)
    assert found["memory.bin"] == bytes(host.image)
    assert found["notes"] == set(host.notes.values())
