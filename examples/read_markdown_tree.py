"""
Turn an archive into Markdown files that need no program at all: one directory per tenant and vault.

    python examples/read_markdown_tree.py [DIRECTORY]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from knowtation_backup import EncryptionKey, ExportReader, FsspecSink, HubClient, Ktb1Codec, OperatorExporter, Pipeline
from knowtation_backup.exports.portable import write_tree
from knowtation_backup.sandbox import SandboxNetwork
from knowtation_backup.sandbox.hub import SandboxHub, SeedPlan, seed

OPERATOR_KEY = "an operator key, long and random"


def main(directory: Path) -> None:
    """Make a sealed archive in *directory*, and the tree of its notes beside it."""
    codec = Ktb1Codec(EncryptionKey.generate())
    with SandboxNetwork() as network, network.serve() as server:
        hub = SandboxHub.deploy(network, operator_key=OPERATOR_KEY)
        seed(hub, SeedPlan(tenants=2, vaults=2))
        with HubClient(hub.base_url(server), operator_key=OPERATOR_KEY) as client:
            pipeline = Pipeline(source=OperatorExporter(client), sink=FsspecSink(directory / "archives"), codec=codec)
            pipeline.backup()

    tree = write_tree(ExportReader(pipeline.read()), directory / "notes")
    print(f"{tree.notes} notes of {tree.tenants} tenants in {tree.directory}")
    notes = sorted((directory / "notes").rglob("*.md"))
    for note in notes:
        print("  ", note.relative_to(directory))
    print()
    print(notes[0].read_text("utf-8")[:300])


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="knowtation-backup-")))
