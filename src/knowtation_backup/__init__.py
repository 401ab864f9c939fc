"""
Back up and restore Knowtation hubs and any other Internet Computer canister.

The names here and in the documented submodules are public; everything with an underscore is not.
"""

from . import errors
from ._engine.retrying import RetryPolicy
from .codecs.compression import Compression
from .codecs.keys import EncryptionKey
from .codecs.ktb1 import Ktb1Codec, decrypt_file, decrypt_to_stream
from .contracts import (
    ArchiveSink,
    BackupSource,
    Capture,
    Clock,
    EncryptionCodec,
    Observer,
    ReadBlob,
    RetentionPolicy,
)
from .errors import BackupError
from .exports.attestations import AttestationExporter, LedgerPrefix
from .exports.exporter import OperatorExporter, VaultExporter
from .exports.known import KnownContent
from .exports.options import ExportOptions
from .exports.reader import ExportReader, ReadLimits
from .exports.resume import PreviousArchive
from .exports.unwrap import UnwrapLimits
from .hub.address import HubAddress
from .hub.client import HubClient, HubStats
from .hub.limits import HubLimits, HubTimeouts
from .hub.preflight import PreflightReport
from .ic.query import QueryClient
from .model.blobs import BlobInfo, BlobRef, SinkCapabilities
from .model.details import ArchiveDetails
from .model.events import Event
from .model.manifest import CodecSpec, Manifest
from .model.plans import ArchiveInfo, ArchiveState, ForgetAction, ForgetDecision, ForgetPlan
from .model.reports import (
    BackupReport,
    CaptureResult,
    Finding,
    ForgetReport,
    Outcome,
    SideFile,
    VerifyLevel,
    VerifyReport,
    jsonable,
)
from .observers.log import LogObserver
from .operations.backup import BackupOptions, ReadBack
from .pipeline import Pipeline
from .retention.keep import KeepLast
from .retention.policy import KeepPolicy
from .sinks.fsspec import FsspecSink, Leftover
from .sinks.memory import MemorySink

__all__ = [
    "ArchiveDetails",
    "ArchiveInfo",
    "ArchiveSink",
    "ArchiveState",
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
    "CodecSpec",
    "Compression",
    "EncryptionCodec",
    "EncryptionKey",
    "Event",
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
    "HubStats",
    "HubTimeouts",
    "KeepLast",
    "KeepPolicy",
    "KnownContent",
    "Ktb1Codec",
    "LedgerPrefix",
    "Leftover",
    "LogObserver",
    "Manifest",
    "MemorySink",
    "Observer",
    "OperatorExporter",
    "Outcome",
    "Pipeline",
    "PreflightReport",
    "PreviousArchive",
    "QueryClient",
    "ReadBack",
    "ReadBlob",
    "ReadLimits",
    "RetentionPolicy",
    "RetryPolicy",
    "SideFile",
    "SinkCapabilities",
    "UnwrapLimits",
    "VaultExporter",
    "VerifyLevel",
    "VerifyReport",
    "decrypt_file",
    "decrypt_to_stream",
    "errors",
    "jsonable",
]
