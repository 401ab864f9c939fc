"""
Seal to public keys, sign, copy to a second place, and take a key away again.

The backup host holds two public keys and a signing key, and could not read what it wrote. Runs on a sandbox hub.
"""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path

from knowtation_backup import (
    CodecChain,
    Compression,
    FsspecSink,
    HubClient,
    Keyring,
    Ktb2Codec,
    OperatorExporter,
    Pipeline,
    PrivateKey,
    SignaturePolicy,
    SigningKey,
    errors,
)
from knowtation_backup.sandbox import SandboxNetwork
from knowtation_backup.sandbox.hub import SandboxHub, SeedPlan, seed


def main() -> None:
    """Do it."""
    operator, auditor = PrivateKey.generate(), PrivateKey.generate()  # where restores happen, and kept there
    folder = Path(tempfile.mkdtemp(prefix="knowtation-"))
    signer = SigningKey.load_or_create(folder / "signing.key")

    operator_key = secrets.token_hex(32)
    with SandboxNetwork() as network, network.serve() as server:
        hub = SandboxHub.deploy(network, operator_key=operator_key)
        seed(hub, SeedPlan(tenants=2, notes=3))
        with HubClient(hub.base_url(server), operator_key=operator_key) as client:
            writing = Pipeline(
                source=OperatorExporter(client),
                sink=FsspecSink(folder / "backups"),
                codec=CodecChain(Compression("gzip"), Ktb2Codec(seal_to=[operator.public_key, auditor.public_key])),
                signing_keys=(signer,),
            )
            report = writing.backup()
    print(report)

    # The host that reads needs keys, and whom to trust.
    trusting = SignaturePolicy(trusted=(signer.verify_key,))
    reading = Pipeline(sink=writing.sink, codec=Keyring([auditor]), signatures=trusting)
    reading.verify().raise_for_findings()
    print(reading.copy_to(FsspecSink(folder / "elsewhere"), report.archive_id))

    # The auditor leaves: the same data bytes under another header, then the old archive goes.
    rotated = writing.rewrap(report.archive_id, open_with=operator, seal_to=operator.public_key)
    print(rotated)
    try:
        next(reading.read(rotated.archive_id))
    except errors.NoMatchingKeyError as error:
        print(f"as it should be: {error}")
    # First to the trash, where its keys still open it; `plan_empty_trash` removes it a week later.
    plan = writing.plan_delete(report.archive_id)
    print(plan)
    print(writing.apply(plan))


if __name__ == "__main__":
    main()
