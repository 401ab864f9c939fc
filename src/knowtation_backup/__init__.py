"""
Back up and restore Knowtation hubs and any other Internet Computer canister.

The names here and in the documented submodules are public; everything with an underscore is not.
"""

from . import errors
from ._engine.retrying import RetryPolicy
from .codecs.age import AgeCodec, AgeIdentity, AgeOptions, AgeRecipient
from .codecs.chain import CodecChain
from .codecs.compression import Compression
from .codecs.encv1 import EncV1Codec, EncV1Options
from .codecs.files import decrypt_file, decrypt_to_stream
from .codecs.keyring import Keyring
from .codecs.keys import EncryptionKey, KeyKind, Passphrase, PrivateKey, PublicKey
from .codecs.ktb1 import Ktb1Codec
from .codecs.ktb2 import Argon2Parameters, Ktb2Codec, Ktb2Reader
from .codecs.signing import SigningKey, check_content, sign_content
from .contracts import (
    ArchiveSink,
    BackupSource,
    Capture,
    Clock,
    Codec,
    CompressionCodec,
    EncryptionCodec,
    Observer,
    ReadBlob,
    RetentionPolicy,
    SectionCapture,
    SectionSource,
)
from .errors import BackupError
from .exports.attestations import AttestationExporter, LedgerPrefix
from .exports.exporter import OperatorExporter, VaultExporter
from .exports.hub_secrets import HubSecrets, SecretReport, generate_secret
from .exports.known import KnownContent
from .exports.options import ExportOptions
from .exports.reader import ExportReader, ReadLimits
from .exports.records import Proof, Record, parse_record, verify_proof
from .exports.replaying import EvidenceReport, verify_export_evidence
from .exports.resume import PreviousArchive
from .exports.sections import ExportFileSource, ExportSections, StoredEntries
from .exports.unwrap import UnwrapLimits
from .hub.address import HubAddress
from .hub.client import HubClient, HubStats
from .hub.limits import HubLimits, HubTimeouts
from .hub.preflight import PreflightReport
from .ic.agent import Agent, fetch_root_key
from .ic.certificate import MAINNET_ROOT_KEY, Certificate
from .ic.delegation_chain import DelegationChain
from .ic.evidence import CallEvidence, CertifiedReply
from .ic.identity import (
    AnonymousIdentity,
    DelegatedIdentity,
    Identity,
    KeyIdentity,
    identity_from_pem,
    identity_from_pem_file,
    identity_of,
    key_file_findings,
)
from .ic.limits import AgentLimits, AgentTimeouts
from .ic.management import CallOptions, CertifiedMetadata, ManagementCanister, ReadOptions, SnapshotData
from .ic.status import NodeStatus
from .model.blobs import BlobInfo, BlobLock, BlobRef, SinkCapabilities
from .model.canisters import (
    CanisterSettings,
    CanisterStatus,
    GlobalKind,
    GlobalValue,
    LogRecord,
    PublicInfo,
    RunState,
    SectionName,
    Slice,
    Snapshot,
    SnapshotMetadata,
    StoredChunk,
)
from .model.details import ArchiveDetails
from .model.events import Event
from .model.ids import ANONYMOUS, MANAGEMENT_CANISTER, Principal, SnapshotId
from .model.manifest import CodecSpec, Manifest
from .model.marks import Mark, MarkVerb, Standing
from .model.plans import ArchiveInfo, ArchiveState, ForgetAction, ForgetDecision, ForgetPlan
from .model.reports import (
    BackupReport,
    CaptureResult,
    Coverage,
    Finding,
    ForgetReport,
    Outcome,
    Sample,
    SideFile,
    TargetResult,
    Unverified,
    VerifyAllReport,
    VerifyLevel,
    VerifyReport,
    jsonable,
)
from .model.sections import FileSection, ImageSection, RecordSection, SectionRecord
from .model.selection import ArchiveFilter
from .model.signatures import SignaturePolicy, VerifyKey
from .model.statements import ContentStatement
from .observers.log import LogObserver
from .operations.adopt import AdoptFailure, Adoption, AdoptOptions, AdoptReport
from .operations.backup import BackupOptions, ReadBack
from .operations.copy import CopyReport, copy_archive
from .operations.keys import KeyCheck, KeyCheckReport
from .operations.repository.backup import FullEvery, RepositoryBackupOptions, RepositoryBackupReport
from .operations.repository.consolidating import ConsolidationReport
from .operations.repository.copy_reports import LagReport, RepositoryCopyReport
from .operations.repository.difference_reports import RepositoryDiff
from .operations.repository.erasing import ErasePlan, ErasureReport, apply_erase_tenant, plan_erase_tenant
from .operations.repository.history_reports import RecordHistory
from .operations.repository.import_reports import ImportPlan, ImportReport
from .operations.repository.importing import StoredFileSource, import_all
from .operations.repository.key_check import RepositoryKeyReport, check_repository_keys
from .operations.repository.lock_reports import LockPlan, LockReport
from .operations.repository.many import BackupSetReport, SetMember, back_up_set
from .operations.repository.note_difference import NoteDiff
from .operations.repository.prune_reports import PrunePlan, PruneReport
from .operations.repository.recipients import (
    RecipientPlan,
    RecipientReport,
    RecipientsListing,
    add_recipients,
    apply_recipients,
    list_recipients,
    plan_remove_recipients,
    plan_rotate,
)
from .operations.repository.repairing import RepairPlan, RepairReport
from .operations.repository.restoring import RepositoryRestorePlan, RepositoryRestoreReport
from .operations.repository.stored_export import ExportForm
from .operations.repository.timeline import AsOf, MissingReport
from .operations.repository.verify_reports import ArchiveVerifyReport, RepositoryVerifyReport
from .operations.repository.waste import Waste
from .operations.rewrap import RewrapOptions, RewrapReport
from .operations.sign import sign_archive
from .operations.verify_all import find_good
from .pipeline import Pipeline
from .repository.keys import WriterKey
from .repository.manifest import ArchiveManifest
from .repository.repository import Repository
from .repository.writer import WriteOptions, WrittenSection
from .repository_pipeline import RepositoryPipeline
from .retention.keep import KeepLast
from .retention.policy import KeepPolicy
from .sinks.fsspec import FsspecSink, Leftover
from .sinks.memory import MemorySink
from .sinks.mirror import MirrorSink
from .sinks.retrying import RetryingSink
from .sinks.s3_options import S3Options
from .sinks.wrappers import AppendOnlySink, ObservedSink, ReadOnlySink, ThrottledSink
from .snapshots.cost import CostEstimate, CyclesPrices, StorageShare
from .snapshots.directory import SnapshotDirectory
from .snapshots.directory_source import SnapshotDirectorySource
from .snapshots.download import DownloadOptions, DownloadReport, SnapshotStream, StreamedPart
from .snapshots.drift import ChangeKind, FactChange, FactsDiff, diff_facts
from .snapshots.facts import CanisterFacts, FleetFacts, FleetItem, capture_all, capture_facts
from .snapshots.journal import DowntimeJournal
from .snapshots.manager import SnapshotManager, SnapshotOptions
from .snapshots.metadata_backup import MetadataBackupReport, back_up_metadata
from .snapshots.metadata_reading import MetadataBackup, MetadataEntry, read_metadata
from .snapshots.preflight import CanisterPreflight, SnapshotPreflight
from .snapshots.provenance import ProvenanceReport, verify_provenance
from .snapshots.registry import CanisterEntry, CanisterRegistry, Criticality, DueCanister
from .snapshots.reports import LoadReport, Recovered, RecoverReport, RestoreReport, Step, Taken, TakeReport
from .snapshots.retention import SnapshotDecision, SnapshotList, SnapshotPlan
from .snapshots.settings_plan import SettingChange, SettingsPlan, SettingsReport, apply_settings, plan_settings
from .snapshots.source import CanisterSource
from .snapshots.upload import SnapshotReader, UploadOptions, UploadReport

__all__ = [
    "ANONYMOUS",
    "MAINNET_ROOT_KEY",
    "MANAGEMENT_CANISTER",
    "AdoptFailure",
    "AdoptOptions",
    "AdoptReport",
    "Adoption",
    "AgeCodec",
    "AgeIdentity",
    "AgeOptions",
    "AgeRecipient",
    "Agent",
    "AgentLimits",
    "AgentTimeouts",
    "AnonymousIdentity",
    "AppendOnlySink",
    "ArchiveDetails",
    "ArchiveFilter",
    "ArchiveInfo",
    "ArchiveManifest",
    "ArchiveSink",
    "ArchiveState",
    "ArchiveVerifyReport",
    "Argon2Parameters",
    "AsOf",
    "AttestationExporter",
    "BackupError",
    "BackupOptions",
    "BackupReport",
    "BackupSetReport",
    "BackupSource",
    "BlobInfo",
    "BlobLock",
    "BlobRef",
    "CallEvidence",
    "CallOptions",
    "CanisterEntry",
    "CanisterFacts",
    "CanisterPreflight",
    "CanisterRegistry",
    "CanisterSettings",
    "CanisterSource",
    "CanisterStatus",
    "Capture",
    "CaptureResult",
    "Certificate",
    "CertifiedMetadata",
    "CertifiedReply",
    "ChangeKind",
    "Clock",
    "Codec",
    "CodecChain",
    "CodecSpec",
    "Compression",
    "CompressionCodec",
    "ConsolidationReport",
    "ContentStatement",
    "CopyReport",
    "CostEstimate",
    "Coverage",
    "Criticality",
    "CyclesPrices",
    "DelegatedIdentity",
    "DelegationChain",
    "DownloadOptions",
    "DownloadReport",
    "DowntimeJournal",
    "DueCanister",
    "EncV1Codec",
    "EncV1Options",
    "EncryptionCodec",
    "EncryptionKey",
    "ErasePlan",
    "ErasureReport",
    "Event",
    "EvidenceReport",
    "ExportFileSource",
    "ExportForm",
    "ExportOptions",
    "ExportReader",
    "ExportSections",
    "FactChange",
    "FactsDiff",
    "FileSection",
    "Finding",
    "FleetFacts",
    "FleetItem",
    "ForgetAction",
    "ForgetDecision",
    "ForgetPlan",
    "ForgetReport",
    "FsspecSink",
    "FullEvery",
    "GlobalKind",
    "GlobalValue",
    "HubAddress",
    "HubClient",
    "HubLimits",
    "HubSecrets",
    "HubStats",
    "HubTimeouts",
    "Identity",
    "ImageSection",
    "ImportPlan",
    "ImportReport",
    "KeepLast",
    "KeepPolicy",
    "KeyCheck",
    "KeyCheckReport",
    "KeyIdentity",
    "KeyKind",
    "Keyring",
    "KnownContent",
    "Ktb1Codec",
    "Ktb2Codec",
    "Ktb2Reader",
    "LagReport",
    "LedgerPrefix",
    "Leftover",
    "LoadReport",
    "LockPlan",
    "LockReport",
    "LogObserver",
    "LogRecord",
    "ManagementCanister",
    "Manifest",
    "Mark",
    "MarkVerb",
    "MemorySink",
    "MetadataBackup",
    "MetadataBackupReport",
    "MetadataEntry",
    "MirrorSink",
    "MissingReport",
    "NodeStatus",
    "NoteDiff",
    "ObservedSink",
    "Observer",
    "OperatorExporter",
    "Outcome",
    "Passphrase",
    "Pipeline",
    "PreflightReport",
    "PreviousArchive",
    "Principal",
    "PrivateKey",
    "Proof",
    "ProvenanceReport",
    "PrunePlan",
    "PruneReport",
    "PublicInfo",
    "PublicKey",
    "ReadBack",
    "ReadBlob",
    "ReadLimits",
    "ReadOnlySink",
    "ReadOptions",
    "RecipientPlan",
    "RecipientReport",
    "RecipientsListing",
    "Record",
    "RecordHistory",
    "RecordSection",
    "RecoverReport",
    "Recovered",
    "RepairPlan",
    "RepairReport",
    "Repository",
    "RepositoryBackupOptions",
    "RepositoryBackupReport",
    "RepositoryCopyReport",
    "RepositoryDiff",
    "RepositoryKeyReport",
    "RepositoryPipeline",
    "RepositoryRestorePlan",
    "RepositoryRestoreReport",
    "RepositoryVerifyReport",
    "RestoreReport",
    "RetentionPolicy",
    "RetryPolicy",
    "RetryingSink",
    "RewrapOptions",
    "RewrapReport",
    "RunState",
    "S3Options",
    "Sample",
    "SecretReport",
    "SectionCapture",
    "SectionName",
    "SectionRecord",
    "SectionSource",
    "SetMember",
    "SettingChange",
    "SettingsPlan",
    "SettingsReport",
    "SideFile",
    "SignaturePolicy",
    "SigningKey",
    "SinkCapabilities",
    "Slice",
    "Snapshot",
    "SnapshotData",
    "SnapshotDecision",
    "SnapshotDirectory",
    "SnapshotDirectorySource",
    "SnapshotId",
    "SnapshotList",
    "SnapshotManager",
    "SnapshotMetadata",
    "SnapshotOptions",
    "SnapshotPlan",
    "SnapshotPreflight",
    "SnapshotReader",
    "SnapshotStream",
    "Standing",
    "Step",
    "StorageShare",
    "StoredChunk",
    "StoredEntries",
    "StoredFileSource",
    "StreamedPart",
    "TakeReport",
    "Taken",
    "TargetResult",
    "ThrottledSink",
    "Unverified",
    "UnwrapLimits",
    "UploadOptions",
    "UploadReport",
    "VaultExporter",
    "VerifyAllReport",
    "VerifyKey",
    "VerifyLevel",
    "VerifyReport",
    "Waste",
    "WriteOptions",
    "WriterKey",
    "WrittenSection",
    "add_recipients",
    "apply_erase_tenant",
    "apply_recipients",
    "apply_settings",
    "back_up_metadata",
    "back_up_set",
    "capture_all",
    "capture_facts",
    "check_content",
    "check_repository_keys",
    "copy_archive",
    "decrypt_file",
    "decrypt_to_stream",
    "diff_facts",
    "errors",
    "fetch_root_key",
    "find_good",
    "generate_secret",
    "identity_from_pem",
    "identity_from_pem_file",
    "identity_of",
    "import_all",
    "jsonable",
    "key_file_findings",
    "list_recipients",
    "parse_record",
    "plan_erase_tenant",
    "plan_remove_recipients",
    "plan_rotate",
    "plan_settings",
    "read_metadata",
    "sign_archive",
    "sign_content",
    "verify_export_evidence",
    "verify_proof",
    "verify_provenance",
]
