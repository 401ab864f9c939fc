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
from .exports.unwrap import UnwrapLimits
from .hub.address import HubAddress
from .hub.client import HubClient, HubStats
from .hub.limits import HubLimits, HubTimeouts
from .hub.preflight import PreflightReport
from .ic.agent import Agent, fetch_root_key
from .ic.certificate import MAINNET_ROOT_KEY
from .model.blobs import BlobInfo, BlobRef, SinkCapabilities
from .model.details import ArchiveDetails
from .model.events import Event
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
from .model.selection import ArchiveFilter
from .model.signatures import SignaturePolicy, VerifyKey
from .model.statements import ContentStatement
from .observers.log import LogObserver
from .operations.adopt import AdoptFailure, Adoption, AdoptOptions, AdoptReport
from .operations.backup import BackupOptions, ReadBack
from .operations.copy import CopyReport, copy_archive
from .operations.keys import KeyCheck, KeyCheckReport
from .operations.rewrap import RewrapOptions, RewrapReport
from .operations.sign import sign_archive
from .operations.verify_all import find_good
from .pipeline import Pipeline
from .retention.keep import KeepLast
from .retention.policy import KeepPolicy
from .sinks.fsspec import FsspecSink, Leftover
from .sinks.memory import MemorySink
from .sinks.mirror import MirrorSink
from .sinks.retrying import RetryingSink
from .sinks.s3_options import S3Options
from .sinks.wrappers import AppendOnlySink, ObservedSink, ReadOnlySink, ThrottledSink

__all__ = [
    "MAINNET_ROOT_KEY",
    "AdoptFailure",
    "AdoptOptions",
    "AdoptReport",
    "Adoption",
    "AgeCodec",
    "AgeIdentity",
    "AgeOptions",
    "AgeRecipient",
    "Agent",
    "AppendOnlySink",
    "ArchiveDetails",
    "ArchiveFilter",
    "ArchiveInfo",
    "ArchiveSink",
    "ArchiveState",
    "Argon2Parameters",
    "AttestationExporter",
    "BackupError",
    "BackupOptions",
    "BackupReport",
    "BackupSource",
    "BlobInfo",
    "BlobRef",
    "Capture",
    "CaptureResult",
    "Clock",
    "Codec",
    "CodecChain",
    "CodecSpec",
    "Compression",
    "CompressionCodec",
    "ContentStatement",
    "CopyReport",
    "Coverage",
    "EncV1Codec",
    "EncV1Options",
    "EncryptionCodec",
    "EncryptionKey",
    "Event",
    "EvidenceReport",
    "ExportOptions",
    "ExportReader",
    "Finding",
    "ForgetAction",
    "ForgetDecision",
    "ForgetPlan",
    "ForgetReport",
    "FsspecSink",
    "HubAddress",
    "HubClient",
    "HubLimits",
    "HubSecrets",
    "HubStats",
    "HubTimeouts",
    "KeepLast",
    "KeepPolicy",
    "KeyCheck",
    "KeyCheckReport",
    "KeyKind",
    "Keyring",
    "KnownContent",
    "Ktb1Codec",
    "Ktb2Codec",
    "Ktb2Reader",
    "LedgerPrefix",
    "Leftover",
    "LogObserver",
    "Manifest",
    "Mark",
    "MarkVerb",
    "MemorySink",
    "MirrorSink",
    "ObservedSink",
    "Observer",
    "OperatorExporter",
    "Outcome",
    "Passphrase",
    "Pipeline",
    "PreflightReport",
    "PreviousArchive",
    "PrivateKey",
    "Proof",
    "PublicKey",
    "ReadBack",
    "ReadBlob",
    "ReadLimits",
    "ReadOnlySink",
    "Record",
    "RetentionPolicy",
    "RetryPolicy",
    "RetryingSink",
    "RewrapOptions",
    "RewrapReport",
    "S3Options",
    "Sample",
    "SecretReport",
    "SideFile",
    "SignaturePolicy",
    "SigningKey",
    "SinkCapabilities",
    "Standing",
    "TargetResult",
    "ThrottledSink",
    "Unverified",
    "UnwrapLimits",
    "VaultExporter",
    "VerifyAllReport",
    "VerifyKey",
    "VerifyLevel",
    "VerifyReport",
    "check_content",
    "copy_archive",
    "decrypt_file",
    "decrypt_to_stream",
    "errors",
    "fetch_root_key",
    "find_good",
    "generate_secret",
    "jsonable",
    "parse_record",
    "sign_archive",
    "sign_content",
    "verify_export_evidence",
    "verify_proof",
]
