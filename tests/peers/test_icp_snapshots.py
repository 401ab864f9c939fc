"""Snapshot directories go both ways between this library and the ``icp`` command, and canisters behave as before."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from random import Random

import attrs
import pytest
import wasmtime
from icp_command import Icp
from repository_stage import new_repository

from knowtation_backup.contracts import SectionSource
from knowtation_backup.ic.agent import Agent
from knowtation_backup.ic.identity import identity_from_pem_file
from knowtation_backup.ic.management import ManagementCanister
from knowtation_backup.model.canisters import GlobalKind, SnapshotMetadata
from knowtation_backup.model.ids import Principal, SnapshotId
from knowtation_backup.operations.repository.backup import back_up
from knowtation_backup.operations.repository.restoring import restore_directory
from knowtation_backup.sandbox import SandboxNetwork, SandboxServer, candid
from knowtation_backup.sinks.fsspec import FsspecSink
from knowtation_backup.snapshots.directory import SnapshotDirectory
from knowtation_backup.snapshots.directory_source import SnapshotDirectorySource
from knowtation_backup.snapshots.download import DIGESTS_FILE, download
from knowtation_backup.snapshots.metadata import FLOAT_BITS_KEY
from knowtation_backup.snapshots.provenance_records import PROVENANCE_FILE
from knowtation_backup.snapshots.source import CanisterSource
from knowtation_backup.snapshots.upload import upload

pytestmark = [pytest.mark.peers, pytest.mark.sandbox]

STORED_CHUNKS = (b"one chunk of the store" * 999, b"another")


@attrs.frozen
class Both:
    """One canister, and two ways to its snapshots."""

    network: SandboxNetwork
    icp: Icp
    management: ManagementCanister
    canister: Principal

    def state(self) -> bytes:
        return self.network.query(self.canister.raw, "get", b"")

    def change(self) -> None:
        self.network.update(self.canister.raw, "change", b"")

    def take(self) -> SnapshotId:
        self.management.stop(self.canister)
        try:
            return self.management.take_snapshot(self.canister).snapshot_id
        finally:
            self.management.start(self.canister)

    def load(self, snapshot_id: SnapshotId) -> None:
        self.management.stop(self.canister)
        self.management.load_snapshot(self.canister, snapshot_id)
        self.management.start(self.canister)

    def metadata(self, snapshot_id: SnapshotId) -> SnapshotMetadata:
        return self.management.read_snapshot_metadata(self.canister, snapshot_id).metadata

    def our_download(self, snapshot_id: SnapshotId, path: Path) -> Path:
        return download(self.management, self.canister, snapshot_id, path).directory

    def their_download(self, snapshot_id: SnapshotId, path: Path) -> Path:
        self.icp.snapshot("download", str(self.canister), str(snapshot_id), "-o", str(path))
        return path

    def their_upload(self, path: Path) -> SnapshotId:
        said = self.icp.snapshot("upload", str(self.canister), "-i", str(path), "--json")
        return SnapshotId.parse(json.loads(said)["snapshot_id"])

    def their_restore(self, snapshot_id: SnapshotId) -> None:
        self.icp.canister("stop", str(self.canister))
        self.icp.snapshot("restore", str(self.canister), str(snapshot_id))
        self.icp.canister("start", str(self.canister))


def _store_chunks(network: SandboxNetwork, canister_id: bytes, sender: bytes) -> None:
    fields = candid.Record({"canister_id": candid.PRINCIPAL, "chunk": candid.Vec(candid.NAT8)})
    for chunk in STORED_CHUNKS:
        arg = candid.encode([fields], [{"canister_id": canister_id, "chunk": chunk}])
        network.update(b"", "upload_chunk", arg, sender)


@pytest.fixture
def both(icp: Icp, network: SandboxNetwork, server: SandboxServer, state_wasm: bytes) -> Iterator[Both]:
    identity = identity_from_pem_file(icp.home / "identity.pem")
    canister_id = network.create_canister(state_wasm, controllers=[identity.sender.raw])
    _store_chunks(network, canister_id, identity.sender.raw)
    with Agent(server.url, identity=identity, root_key=network.root_key) as agent:
        yield Both(network, icp, ManagementCanister(agent), Principal(canister_id))


def files(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_our_directories_are_the_ones_icp_writes(both: Both, tmp_path: Path) -> None:
    taken = both.take()
    ours = files(both.our_download(taken, tmp_path / "ours"))
    theirs = files(both.their_download(taken, tmp_path / "theirs"))
    assert theirs.pop(".lock") == b""
    assert ours.pop(PROVENANCE_FILE)
    assert ours.pop(DIGESTS_FILE)
    assert ours == theirs
    assert len([name for name in ours if name.startswith("wasm_chunk_store/")]) == len(STORED_CHUNKS)
    kinds = {item.kind for item in both.metadata(taken).globals if item is not None}
    assert kinds == set(GlobalKind)


def test_icp_restores_what_we_downloaded(both: Both, tmp_path: Path) -> None:
    state = both.state()
    path = both.our_download(both.take(), tmp_path / "ours")
    both.change()
    assert both.state() != state
    both.their_restore(both.their_upload(path))
    assert both.state() == state


@pytest.mark.parametrize("whose", ["stream", "ours", "theirs"])
def test_icp_restores_what_a_repository_kept(both: Both, tmp_path: Path, whose: str) -> None:
    """Two days of a canister, from the network or from directories; the first one comes back."""
    repository = new_repository(FsspecSink(tmp_path / "repository"))
    state = both.state()
    archives: list[str] = []
    for day in ("monday", "tuesday"):
        taken = both.take()
        source: SectionSource
        if whose == "stream":
            source = CanisterSource(management=both.management, canister_id=both.canister, snapshot_id=taken)
        else:
            write = both.our_download if whose == "ours" else both.their_download
            source = SnapshotDirectorySource(path=write(taken, tmp_path / day), canister_id=both.canister)
        archives.append(back_up(repository, source).archive_id)
        both.change()
    assert both.state() != state
    restored = restore_directory(repository, archives[0], tmp_path / "restored").directory
    uploaded = both.their_upload(restored)
    both.their_restore(uploaded)
    assert both.state() == state
    beside = {".lock", "metadata.json", PROVENANCE_FILE, DIGESTS_FILE}
    again, kept = (
        {name: data for name, data in files(path).items() if name not in beside}
        for path in (both.their_download(uploaded, tmp_path / "again"), restored)
    )
    assert again == kept


def test_we_restore_what_icp_downloaded(both: Both, tmp_path: Path) -> None:
    state = both.state()
    taken = both.take()
    path = both.their_download(taken, tmp_path / "theirs")
    before = files(path)
    both.change()
    report = upload(both.management, path, both.canister)
    both.load(report.snapshot_id)
    assert both.state() == state
    assert files(path) == before
    first, second = both.metadata(taken), both.metadata(report.snapshot_id)
    assert attrs.evolve(first, source=None, taken_at_ns=0, canister_version=0) == attrs.evolve(
        second, source=None, taken_at_ns=0, canister_version=0
    )
    # Once more from what icp makes of our upload.
    again = both.their_download(report.snapshot_id, tmp_path / "again")
    assert {name: data for name, data in files(again).items() if name != "metadata.json"} == {
        name: data for name, data in before.items() if name != "metadata.json"
    }


def test_uploads_that_icp_left_unfinished_do_not_disturb(both: Both, tmp_path: Path) -> None:
    path = both.their_download(both.take(), tmp_path / "theirs")
    (path / ".upload_progress.json").write_text("{}")
    upload(both.management, path, both.canister)
    assert SnapshotDirectory.findings(path) == ()


@pytest.mark.parametrize("key", ["globals", "exported_globals"])
def test_older_spellings_are_uploaded(both: Both, tmp_path: Path, key: str) -> None:
    path = both.their_download(both.take(), tmp_path / "theirs")
    file = path / "metadata.json"
    tree = json.loads(file.read_bytes())
    tree[key] = tree.pop("globals")
    vector = next(item for item in tree[key] if "v128" in item)
    vector["v128"] = str((1 << 100) + 3)
    text = json.dumps(tree).encode()
    file.write_bytes(text)
    state = both.state()
    both.change()
    both.load(upload(both.management, path, both.canister).snapshot_id)
    assert both.state() == state
    assert file.read_bytes() == text


def test_numbers_that_json_cannot_write_survive_with_us_alone(both: Both, tmp_path: Path) -> None:
    both.network.update(both.canister.raw, "make_nan", b"")
    state = both.state()
    taken = both.take()
    ours = both.our_download(taken, tmp_path / "ours")
    theirs = both.their_download(taken, tmp_path / "theirs")
    tree = json.loads((ours / "metadata.json").read_bytes())
    del tree[FLOAT_BITS_KEY]
    assert tree == json.loads((theirs / "metadata.json").read_bytes())
    both.change()
    both.load(upload(both.management, ours, both.canister).snapshot_id)
    assert both.state() == state
    said = both.icp.run("canister", "snapshot", "upload", str(both.canister), "-i", str(theirs), ok=False)
    assert "null" in said


FLOATS = (0.0, 1.0, 0.1, 1e-5, 1.5e-5, 1e-6, 9.999e-7, 1e-7, 123456.789, 1e12, 9e12, 1e13, 1e15, 1e16, 1.5e16, 1e17)
EXTREMES = {"f32": (3.4028235e38, 1e-45, 1.1754944e-38, 9.8607613e-32), "f64": (1.7976931348623157e308, 5e-324, 1e23)}
LAYOUTS = {"f32": ("<I", "<f", 32), "f64": ("<Q", "<d", 64)}


def _numbers(kind: str) -> Iterator[float]:
    for magnitude in (*FLOATS, *EXTREMES[kind]):
        yield from (magnitude, -magnitude)
    random = Random(kind)  # noqa: S311 - for variety
    integer, real, bits = LAYOUTS[kind]
    for _ in range(400):
        (number,) = struct.unpack(real, struct.pack(integer, random.getrandbits(bits)))
        if math.isfinite(number):
            yield number


def test_numbers_are_written_digit_for_digit(both: Both, tmp_path: Path) -> None:
    """Globals of all magnitudes: the two texts are the same."""
    lines = [f"(global (mut {kind}) ({kind}.const {number.hex()}))" for kind in EXTREMES for number in _numbers(kind)]
    module = bytes(wasmtime.wat2wasm(f"(module (memory 1) {' '.join(lines)})"))
    sender = both.management.agent.sender
    other = attrs.evolve(both, canister=Principal(both.network.create_canister(module, controllers=[sender.raw])))
    taken = other.take()
    ours, theirs = other.our_download(taken, tmp_path / "ours"), other.their_download(taken, tmp_path / "theirs")
    assert (ours / "metadata.json").read_text() == (theirs / "metadata.json").read_text()
    assert len(other.metadata(taken).globals) == len(lines)
