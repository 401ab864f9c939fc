"""
The repository that later releases must be able to read: what is in it, and how it was written.

Stored bytes differ whenever it is written, since keys and nonces are random; contents do not.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from repository_stage import StagedSource, contents

from knowtation_backup.codecs.keys import EncryptionKey, KeyKind, Passphrase, PrivateKey
from knowtation_backup.codecs.ktb2 import Argon2Parameters, SealingKey
from knowtation_backup.model.sections import PAGE_BYTES
from knowtation_backup.operations.marks import pin, tag
from knowtation_backup.operations.repository.backup import RepositoryBackupOptions, back_up
from knowtation_backup.operations.repository.erasing import apply_erase_tenant, plan_erase_tenant
from knowtation_backup.operations.repository.recipients import apply_recipients, plan_rotate
from knowtation_backup.operations.repository.verifying import verify_all
from knowtation_backup.repository.repository import Repository
from knowtation_backup.sinks.fsspec import FsspecSink

__all__ = ["PLACE", "digests", "sources", "write_repository"]

MOMENT = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
PLACE = Path(__file__).parent.parent / "compat" / "repository-1"
PASSPHRASE = "a repository of version 1"
CHEAP = Argon2Parameters(memory_kib=19 << 10, iterations=2, lanes=1)


def sources() -> list[StagedSource]:
    """Five days of a canister whose memory changes, grows and shrinks, and whose tenants write notes."""
    rng = random.Random(1)  # noqa: S311 - the same content in every run
    page = functools.partial(rng.randbytes, PAGE_BYTES)
    text = [b"".join(b"%d: all is well. " % rng.randrange(100) for _ in range(400))[:PAGE_BYTES] for _ in range(40)]
    heap = [*text, *(page() for _ in range(8)), *([bytes(PAGE_BYTES)] * 30), *text[:10]]
    notes = {(b"tenant-%d" % (n % 4), b"note-%d" % n): b'{"n":%d,"text":"first"}' % n for n in range(60)}
    files = {"wasm_module.bin": b"\0asm\1\0\0\0" + rng.randbytes(3000), "metadata.json": b'{"version":1}'}
    days: list[StagedSource] = []
    for day in range(5):
        heap[day * 3] = page()
        if day == 1:
            heap += [page() for _ in range(3)]
        if day == 2:
            heap = heap[:60]
        if day == 3:
            heap += [bytes(PAGE_BYTES)] * 10 + [page()]
            del notes[b"tenant-1", b"note-1"]
        notes[b"tenant-2", b"note-2"] = b'{"n":2,"text":"of day %d"}' % day
        stable = b"".join(heap[5:20]) + b"an end that fills no page"
        days.append(
            StagedSource(
                images={"wasm_memory.bin": b"".join(heap), "stable_memory.bin": stable},
                files=dict(files),
                records={"notes": dict(notes)},
                taken_at=MOMENT + day * DAY,
                details={"day": day},
            )
        )
    return days


def digests(read: Mapping[str, bytes | set[bytes]]) -> dict[str, str]:
    """SHA-256 of each section; of records, of their values, sorted, each with a zero byte behind it."""
    joined = {
        name: content if isinstance(content, bytes) else b"".join(value + b"\0" for value in sorted(content))
        for name, content in read.items()
    }
    return {name: hashlib.sha256(content).hexdigest() for name, content in joined.items()}


def _later() -> dt.datetime:
    return MOMENT + 10 * DAY


def write_repository() -> None:
    """Write the repository anew, with everything that format 1 has."""
    shutil.rmtree(PLACE, ignore_errors=True)
    key, pair = EncryptionKey.generate(), PrivateKey.generate(KeyKind.X25519)
    recipients: list[SealingKey] = [key, pair.public_key, Passphrase(text=PASSPHRASE)]
    first, *others = sources()
    repository = Repository.create(
        FsspecSink(str(PLACE / "store")), seal_to=recipients, tenant_keys=True, max_chain=3, kdf=CHEAP
    )
    expected: dict[str, Any] = {}
    archives = [back_up(repository, first, options=RepositoryBackupOptions(tags=("first",)), clock=_later).archive_id]
    archives.append(back_up(repository, others[0], clock=_later).archive_id)
    plan = plan_rotate(repository, seal_to=recipients, opens_with=key, kind=KeyKind.X25519, kdf=CHEAP)
    repository = apply_recipients(repository, plan).repository
    archives += [back_up(repository, source, clock=_later).archive_id for source in others[1:]]
    module = attrs.evolve(others[-1], source_id="another", images={}, records={}, complete=False)
    archives.append(
        back_up(repository, module, options=RepositoryBackupOptions(set_id="set-1"), clock=_later).archive_id
    )
    for archive_id in archives:
        expected[archive_id] = digests(contents(repository, archive_id))
    pin(repository.sink, archives[0], clock=_later)
    tag(repository.sink, archives[1], "kept", clock=_later)
    if not verify_all(repository, archives[:2], clock=_later).ok:
        raise SystemExit("what was written does not verify")
    apply_erase_tenant(repository, plan_erase_tenant(repository, "tenant-3"), clock=_later)
    value = {
        "written_by": repository.manifest(archives[0]).generator,
        "keys": {
            "raw": key.raw.hex(),
            "x25519": pair.raw.hex(),
            "passphrase": PASSPHRASE,
            "writer": repository.writer_key.to_text(),
        },
        "erased_tenant": "tenant-3",
        "archives": expected,
    }
    (PLACE / "expected.json").write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
