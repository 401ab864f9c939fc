"""
A typed consumer of the whole public surface. Type-checked by mypy and pyright in strict mode, never executed.

What `assert_type` says here is part of the interface: a change that breaks it breaks users.
"""

import datetime as dt
import logging
import os
import ssl
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, assert_type

import attrs
import httpx

import knowtation_backup as kb
from knowtation_backup import errors
from knowtation_backup.exports.checking import verify_payload
from knowtation_backup.exports.convert import full_export, records_export, tenant_exports, vault_export
from knowtation_backup.exports.github import FolderLimits, GithubBackup
from knowtation_backup.exports.portable import TreeReport, write_file, write_tree
from knowtation_backup.exports.reader import Entry, PayloadHeader
from knowtation_backup.exports.records import ContentRoot, Proof, Record, TenantContent, verify_proof
from knowtation_backup.hub.schema import IndexPage, Note, NoteList, Proposal
from knowtation_backup.sandbox import (
    Answer,
    FaultPlan,
    GatewayOptions,
    LocalhostTransport,
    ManagementOptions,
    Rule,
    SandboxNetwork,
    SandboxProcess,
    SandboxTransport,
    SeenRequest,
)
from knowtation_backup.sandbox.hub import SandboxHub, SeedPlan, SeedReport, canister_wasm, seed
from knowtation_backup.testing.faults import FaultMoment, FaultSink
from knowtation_backup.testing.sinks import SinkContract

# Parts of one's own


class Times(kb.ArchiveSink):
    """A sink of one's own."""

    @property
    def capabilities(self) -> kb.SinkCapabilities:
        return kb.SinkCapabilities(create_only=True, durable=False, deletable=False)

    @property
    def location(self) -> str:
        return "nowhere"

    def _put(self, key: str, chunks: Iterable[bytes]) -> kb.BlobInfo:
        return kb.BlobInfo(key=key, size_bytes=sum(map(len, chunks)), modified_at=None)

    def _read(self, key: str, start: int, size_bytes: int | None) -> Iterator[bytes]:
        yield b""[start:size_bytes]
        raise errors.BlobNotFoundError("nothing is kept", key=key)

    def _stat(self, key: str) -> kb.BlobInfo:
        raise errors.BlobNotFoundError("nothing is kept", hint="use another sink", key=key)

    def _list(self, prefix: str) -> Iterator[kb.BlobInfo]:
        yield from (kb.BlobInfo(key=prefix, size_bytes=0) for _ in ())

    def _delete(self, key: str) -> None:
        raise errors.SinkPermissionError(f"{key} stays")


class Plain(kb.EncryptionCodec):
    """A codec of one's own."""

    suffix = ".plain"

    @property
    def spec(self) -> kb.CodecSpec:
        return kb.CodecSpec(name="plain")

    def seal(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        yield from chunks

    def open(self, read: kb.ReadBlob) -> Iterator[bytes]:
        yield from read()


@attrs.frozen(kw_only=True)
class OneByte:
    """A capture of one's own; needs no base class."""

    taken_at: dt.datetime
    kind: str = "example"
    name: str = "one-byte"
    suffix: str = ".bin"
    source_id: str = "here"

    def chunks(self) -> Iterator[bytes]:
        yield b"x"

    def result(self) -> kb.CaptureResult:
        side = kb.SideFile(name="raw-0001.txt", content=b"raw")
        warning = kb.Finding(code="odd", where="here", message="one byte")
        return kb.CaptureResult(complete=True, counts={}, details={}, side_files=(side,), warnings=(warning,))


class Here:
    """A source of one's own."""

    def capture(self, *, taken_at: dt.datetime, observer: kb.Observer = print) -> kb.Capture:
        observer(kb.Event(name="here.started"))
        return OneByte(taken_at=taken_at)


class KeepAll:
    """A policy of one's own."""

    def plan(self, archives: Sequence[kb.ArchiveInfo], *, now: dt.datetime) -> kb.ForgetPlan:
        decisions = tuple(kb.ForgetDecision(archive=info, keep=True, reason="all") for info in archives)
        return kb.ForgetPlan(made_at=now, decisions=decisions)


def known_paths(user_id: str, vault_id: str) -> Iterable[str]:
    return (f"{user_id}/{vault_id}.md",)


def watch(event: kb.Event) -> None:
    assert_type(event.name, str)
    assert_type(event.fields, Mapping[str, Any])


# Verbs


def hubs(context: ssl.SSLContext, transport: httpx.BaseTransport) -> kb.HubClient:
    address = kb.HubAddress.parse("bnz7o-iuaaa-aaaaa-qaaaa-cai", insecure_http=False)
    assert_type(kb.HubAddress.resolve(os.environ, ids_file=Path("ids.json"), single_vault=True), kb.HubAddress)
    assert_type(address.canister_id, str | None)
    with kb.HubClient(
        address,
        operator_key=None,
        gateway_secret="secret",
        timeouts=kb.HubTimeouts(connect_seconds=5),
        limits=kb.HubLimits(reply_bytes=1 << 20),
        retry=kb.RetryPolicy(attempts=2, first_delay_seconds=0.1),
        ssl_context=context,
    ) as client:
        assert_type(client.preflight(), kb.PreflightReport)
        assert_type(client.stats, kb.HubStats)
        page = client.index_page("", limit=10)
        assert_type(page, IndexPage)
        assert_type(client.vaults(page.user_ids[0]), tuple[str, ...])
        assert_type(client.export("user", "vault"), NoteList)
        assert_type(client.note("user", "vault", "path"), Note)
    return kb.HubClient("https://hub.example", transport=transport, observer=watch, sleep=lambda _seconds: None)


def exporters(client: kb.HubClient, stored: kb.Pipeline) -> tuple[kb.BackupSource, kb.BackupSource]:
    previous = kb.PreviousArchive(stored.details().capture, stored.read)
    options = kb.ExportOptions(
        concurrency=4,
        on_error="continue",
        consistency="double",
        payload="records",
        extra_users=["github:1"],
        extra_vaults=("drafts",),
        extra_vaults_of={"github:1": {"plans"}},
        known_paths=known_paths,
        previous=previous,
    )
    assert_type(options.extra_users, tuple[str, ...])
    return kb.OperatorExporter(client, options), kb.VaultExporter(client, user_id="u", vault_id="v", options=options)


def ledger(stored: kb.Pipeline) -> kb.BackupSource:
    previous = kb.LedgerPrefix.from_details(stored.details().capture)
    with kb.Agent(observer=watch) as agent:
        assert_type(agent.root_key, bytes)
        return kb.AttestationExporter(
            agent=agent, canister_id="rrkah-fqaaa-aaaaa-aaaaq-cai", previous=previous, certified=True
        )


def certified(client: kb.HubClient, agent: kb.Agent, stored: kb.Pipeline) -> kb.BackupSource:
    report = kb.verify_export_evidence(stored.side_file("certified-replies.bin"), stored.read(), operator_key="k")
    assert_type(report, kb.EvidenceReport)
    assert_type(report.ok, bool)
    return kb.OperatorExporter(client, mode="certified", agent=agent)


def rotation(agent: kb.Agent) -> dt.datetime | None:
    held = kb.HubSecrets(agent, "rrkah-fqaaa-aaaaa-aaaaq-cai", max_age=dt.timedelta(days=30))
    report = held.rotate_operator_secret(kb.generate_secret(), old="x" * 32, probe="https://hub.example")
    assert_type(report, kb.SecretReport)
    return report.rotate_by


def sinks() -> tuple[kb.ArchiveSink, ...]:
    local = kb.FsspecSink(Path("backups"))
    for leftover in local.leftovers():
        assert_type(leftover, kb.Leftover)
    assert_type(local.remove_leftovers(now=dt.datetime.now(dt.UTC)), tuple[kb.Leftover, ...])
    assert_type(local.capabilities.create_only, bool)
    memory = kb.MemorySink(permissions="lrw")
    assert_type(memory.contents(), dict[str, bytes])
    assert_type(memory.put("key", [b"bytes"]), kb.BlobInfo)
    assert_type(memory.read("key", start=1, size_bytes=2), Iterator[bytes])
    remote = kb.FsspecSink("s3://bucket", "backups", storage_options={"anon": True}, publish="close")
    return local, memory, remote, Times(), FaultSink(memory, fail_at=1, moment=FaultMoment.DURING)


def keys() -> Iterator[kb.EncryptionCodec]:
    key = kb.EncryptionKey.generate()
    assert_type(key.key_id, str)
    assert_type(kb.decrypt_file("a.enc", Path("a"), kb.EncryptionKey.from_hex("00" * 32)), int)
    assert_type(kb.decrypt_to_stream("a.enc", sys.stdout.buffer, key), int)
    yield kb.Ktb1Codec(key)
    yield Plain()


def everything(source: kb.BackupSource, sink: kb.ArchiveSink, codec: kb.EncryptionCodec) -> int:
    clock: kb.Clock = lambda: dt.datetime.now(dt.UTC)  # noqa: E731 - shows the type of an attribute
    policies: tuple[kb.RetentionPolicy, ...] = (
        kb.KeepLast(limit=7),
        kb.KeepLast.km(),
        kb.KeepPolicy(daily=30, within_weekly="90d", within=dt.timedelta(days=2), yearly=None, tags=["pre-upgrade"]),
        kb.KeepPolicy.quri(),
        KeepAll(),
    )
    pipeline = kb.Pipeline(
        source=source,
        sink=sink,
        codec=codec,
        retention=policies[0],
        options=kb.BackupOptions(read_back=kb.ReadBack.CONTENT),
        payload_checker=verify_payload,
        observer=kb.LogObserver(logger=logging.getLogger("mine"), levels={"hub.retry": logging.INFO}),
        clock=clock,
    )
    report = pipeline.backup()
    assert_type(report, kb.BackupReport)
    assert_type(report.manifest, kb.Manifest)
    assert_type(report.manifest.artifact, kb.BlobRef)
    assert_type(report.manifest.counts, Mapping[str, int])
    assert_type(report.warnings, tuple[kb.Finding, ...])
    assert_type(report.outcome, kb.Outcome)
    assert_type(kb.Manifest.from_bytes(report.manifest.to_bytes()), kb.Manifest)
    verdict = pipeline.verify(report.archive_id, level=kb.VerifyLevel.PRESENCE)
    assert_type(verdict, kb.VerifyReport)
    verdict.raise_for_findings()
    assert_type(pipeline.list(), tuple[kb.ArchiveInfo, ...])
    assert_type(pipeline.find("latest-1"), kb.ArchiveInfo)
    assert_type(pipeline.latest().state, kb.ArchiveState)
    assert_type(pipeline.manifest(), kb.Manifest)
    assert_type(pipeline.details(), kb.ArchiveDetails)
    plan = pipeline.plan_forget()
    assert_type(plan.forgotten, tuple[kb.ArchiveInfo, ...])
    assert_type(plan.action, kb.ForgetAction)
    assert_type(pipeline.apply(plan), kb.ForgetReport)
    plain: Any = kb.jsonable(report)
    del plain
    return report.exit_code


def reading(pipeline: kb.Pipeline) -> Iterator[Note | Proposal]:
    limits = kb.ReadLimits(element_bytes=1 << 20, unwrap=kb.UnwrapLimits(ratio=10))
    reader = kb.ExportReader(pipeline.read(), user_id="tenant", limits=limits)
    root = ContentRoot()
    for entry in reader:
        assert_type(entry, Entry)
        assert_type(entry.record(), Record)
        if entry.note is not None:
            yield entry.note
        elif entry.proposal is not None:
            yield entry.proposal
    assert_type(reader.header, PayloadHeader)
    assert_type(reader.counts, Mapping[str, int])
    content = TenantContent("tenant")
    root.add(content.digest())
    proof = root.prove(next(iter(reader)).record(), content)
    assert_type(proof, Proof)
    assert_type(verify_proof(reader.content_root, next(iter(reader)).record(), proof), bool)


def converting(reader: kb.ExportReader) -> None:
    assert_type(write_file(full_export(reader), "full.json"), int)
    assert_type(records_export(reader), Iterator[bytes])
    assert_type(vault_export(reader, user_id="u", vault_id="v"), Iterator[bytes])
    for user_id, chunks in tenant_exports(reader):
        assert_type(user_id, str)
        assert_type(chunks, Iterator[bytes])
    assert_type(write_tree(reader, Path("tree")), TreeReport)
    for entry in GithubBackup("tree/u/v", user_id="u", limits=FolderLimits(files=10)):
        assert_type(entry, Entry)
    assert_type(full_export(GithubBackup("tree/u/v", user_id="u")), Iterator[bytes])


def failing(pipeline: kb.Pipeline) -> str:
    try:
        pipeline.backup()
    except errors.RejectedError as error:
        assert_type(error.reject_code, int | None)
        assert_type(error.certified, bool)
    except kb.BackupError as error:
        assert_type(error.kind, str)
        assert_type(error.context, dict[str, Any])
        assert_type(error.retryable, bool)
        return error.hint
    return ""


# A repository


class Desk:
    """A source of sections of one's own, and its own capture."""

    kind = "notes"
    source_id = "desk"
    taken_at = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)

    def capture_sections(self, *, taken_at: dt.datetime, observer: kb.Observer = print) -> "Desk":
        observer(kb.Event(name="desk.read"))
        self.taken_at = taken_at
        return self

    def sections(self) -> Iterator[kb.ImageSection | kb.FileSection | kb.RecordSection]:
        yield kb.FileSection(name="notes.txt", chunks=[b"remember the milk"])
        yield kb.ImageSection(name="heap.bin", size_bytes=4096, chunks=iter([bytes(4096)]))
        yield kb.RecordSection(name="records", batches=[[kb.SectionRecord(b"owner", b"name", b"value")]])

    def result(self) -> kb.CaptureResult:
        return kb.CaptureResult(complete=True, counts={}, details={})


def repository(sink: kb.ArchiveSink, other: kb.Repository, directory: Path, moment: dt.datetime) -> None:
    key = kb.PrivateKey.generate()
    made = kb.Repository.create(sink, seal_to=[key.public_key], tenant_keys=True)
    assert_type(made.writer_key, kb.WriterKey)
    assert_type(kb.Repository.open(sink, [key, kb.Passphrase(text="words")]), kb.Repository)
    source: kb.SectionSource = Desk()
    pipeline = kb.RepositoryPipeline(
        repository=made,
        sources={
            "desk": source,
            "made later": Desk,
            "export": kb.ExportFileSource(path="export.json", source_id="hub"),
        },
        retention=kb.KeepPolicy(daily=7),
        options=kb.RepositoryBackupOptions(write=kb.WriteOptions(read_back=True)),
    )
    assert_type(pipeline.backup("desk"), kb.BackupSetReport)
    assert_type(pipeline.list(kb.ArchiveFilter()), tuple[kb.ArchiveInfo, ...])
    assert_type(pipeline.as_of(moment, tenant="anna"), kb.AsOf)
    assert_type(pipeline.missing(moment, expected=["notes@desk"]), kb.MissingReport)
    assert_type(pipeline.diff("latest-1"), kb.RepositoryDiff)
    assert_type(pipeline.diff_note("anna", "default", "a.md", "latest-1"), kb.NoteDiff)
    assert_type(pipeline.history("anna", "default", "a.md"), kb.RecordHistory)
    assert_type(
        pipeline.restore("latest", directory, form=kb.ExportForm.FULL, replace=True), kb.RepositoryRestoreReport
    )
    assert_type(pipeline.read("heap.bin"), Iterator[bytes])
    assert_type(pipeline.verify_all(sample=kb.Sample(part=1, of=7)), kb.RepositoryVerifyReport)
    assert_type(pipeline.replicate(sink), kb.RepositoryCopyReport)
    assert_type(pipeline.lag(other), kb.LagReport)
    assert_type(pipeline.apply_repair(pipeline.plan_repair(other), other), kb.RepairReport)
    assert_type(pipeline.apply(pipeline.plan_forget()), kb.ForgetReport)
    assert_type(pipeline.apply_prune(pipeline.plan_prune()), kb.PruneReport)
    assert_type(pipeline.apply_extend_locks(pipeline.plan_extend_locks(until=moment)), kb.LockReport)
    assert_type(pipeline.measure_waste(), kb.Waste)
    assert_type(pipeline.import_all(sink, kb.Keyring([key])), kb.ImportReport)
    assert_type(kb.check_repository_keys(sink, [key]), kb.RepositoryKeyReport)
    plan = kb.plan_rotate(made, seal_to=[key.public_key], opens_with=key)
    assert_type(kb.apply_recipients(made, plan), kb.RecipientReport)
    assert_type(kb.apply_erase_tenant(made, kb.plan_erase_tenant(made, "anna")), kb.ErasureReport)


# The sandbox


def sandbox(directory: Path) -> None:
    faults = FaultPlan(seed=1, latency_seconds=0.01)
    with (
        SandboxNetwork(
            directory=directory,
            faults=faults,
            gateway=GatewayOptions(serve_unverified=True),
            management=ManagementOptions(default_cycles=1),
        ) as network,
        network.serve() as server,
    ):
        hub = SandboxHub.deploy(network, operator_key="key", gateway_secret="secret")
        assert_type(hub.base_url(server), str)
        assert_type(seed(hub, SeedPlan.showcase(oversized=False)), SeedReport)
        assert_type(network.transport(), SandboxTransport)
        assert_type(network.faults.add(Answer(status=503), endpoint="gateway", probability=0.1), Rule)
        assert_type(network.requests.entries, tuple[SeenRequest, ...])
        assert_type(network.create_canister(canister_wasm("hub")), bytes)
        assert_type(network.root_key, bytes)
        network.clock.advance(1.0)
    with SandboxProcess(port=0) as process:
        assert_type(process.url, str)
        httpx.Client(transport=LocalhostTransport(), base_url=process.url).close()


class TestMySink(SinkContract):
    """The contract suite over a sink of one's own."""
