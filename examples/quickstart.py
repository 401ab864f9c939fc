"""
The main job, end to end, with no network and no account.

A real hub canister (Wasm compiled from Motoko) runs in the embedded sandbox network. Every tenant is exported over
HTTP, sealed, stored through fsspec, verified, opened and read back.

    python examples/quickstart.py [DIRECTORY]
"""

from __future__ import annotations

import secrets
import sys
import tempfile
import time
from pathlib import Path

from knowtation_backup import (
    EncryptionKey,
    Event,
    ExportOptions,
    ExportReader,
    FsspecSink,
    HubClient,
    KeepLast,
    Ktb1Codec,
    OperatorExporter,
    Pipeline,
)
from knowtation_backup.sandbox import SandboxNetwork
from knowtation_backup.sandbox.hub import SandboxHub, SeedPlan, seed


def show(event: Event) -> None:
    """Print how far the export is."""
    if event.name == "export.progress":
        done, total = event.fields["tenants_done"], event.fields["tenants_total"]
        print(f"   {done} of {total} tenants, {event.fields['notes']} notes, {event.fields['payload_bytes']:,} bytes")


def main(directory: Path) -> None:
    """Back a sandbox hub up into *directory*."""
    start = time.perf_counter()
    operator_key, gateway_secret = secrets.token_hex(32), secrets.token_hex(32)

    print("1. Starting a sandbox Internet Computer and installing a hub canister")
    with SandboxNetwork() as network, network.serve() as server:
        hub = SandboxHub.deploy(network, operator_key=operator_key, gateway_secret=gateway_secret)
        planted = seed(hub, SeedPlan.showcase(oversized=False))
        print(f"   {hub.base_url(server)} holds {planted.notes} notes and {planted.proposals} proposals")

        print("2. Exporting every tenant over HTTP, sealing, storing")
        sink = FsspecSink(directory)
        codec = Ktb1Codec(EncryptionKey.generate())
        with HubClient(hub.base_url(server), operator_key=operator_key, gateway_secret=gateway_secret) as client:
            # The hub lists neither tenants nor vaults that only have proposals: name those you know of.
            options = ExportOptions(extra_users=planted.hidden_user_ids, extra_vaults=planted.hidden_vault_ids)
            exporter = OperatorExporter(client, options)
            pipeline = Pipeline(source=exporter, sink=sink, codec=codec, retention=KeepLast(limit=7), observer=show)
            report = pipeline.backup()

    print("3. The sandbox is gone; verifying the stored archive")
    verdict = pipeline.verify()
    verdict.raise_for_findings()

    print("4. Opening it and reading it back")
    reader = ExportReader(pipeline.read()).read_all()
    recorded_root = pipeline.details().capture["content_root"]

    stored = report.manifest.artifact.size_bytes
    print()
    print(f"tenants       {reader.counts['tenants']}")
    print(f"vaults        {reader.counts['vaults']}")
    print(f"notes         {reader.counts['notes']} read back, {planted.notes} planted")
    print(f"proposals     {reader.counts['proposals']} read back, {planted.proposals} planted")
    print(f"content root  {reader.content_root}")
    print(f"bytes         {report.payload_bytes:,} raw, {stored:,} stored")
    for warning in report.warnings:
        print(f"warning       {warning.where}: {warning.message}")
    print(f"time          {report.duration_seconds:.1f} s for the backup, {time.perf_counter() - start:.1f} s in all")
    print(f"verified      {'ok' if verdict.ok else 'NOT OK'}, {verdict.bytes_read:,} bytes read")
    print(f"retention     {len(pipeline.plan_forget().kept)} kept, {len(pipeline.plan_forget().forgotten)} to forget")
    print(f"archive       {directory / report.archive_id}")
    same_counts = (reader.counts["notes"], reader.counts["proposals"]) == (planted.notes, planted.proposals)
    if not same_counts or reader.content_root != recorded_root:
        sys.exit("the archive does not hold what was planted")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="knowtation-backup-")))
