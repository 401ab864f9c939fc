"""
Recipients: who can open a repository; add one, remove one, give it a new key; a host that can only write.

    python examples/repository/recipients.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from _days import export_file

from knowtation_backup import (
    AppendOnlySink,
    FsspecSink,
    Passphrase,
    PrivateKey,
    Repository,
    RepositoryPipeline,
    add_recipients,
    apply_recipients,
    check_repository_keys,
    list_recipients,
    plan_remove_recipients,
    plan_rotate,
)


def main(directory: Path) -> None:
    """Change who can read, without rewriting anything."""
    sink = FsspecSink(directory / "history")
    anna, ben = PrivateKey.generate(), PrivateKey.generate()
    repository = Repository.create(sink, seal_to=[anna.public_key])

    print("-- the host that backs up: it can add, and neither read back nor delete")
    host = Repository.open(AppendOnlySink(sink), repository.writer_key)
    print(RepositoryPipeline(repository=host, sources={"export": export_file(directory, 0)}).backup())

    print("-- add a recipient, and a passphrase for the safe")
    words = Passphrase(text="a few words that nobody guesses")
    print(add_recipients(repository, [ben.public_key, words], opens_with=anna))
    print(list_recipients(repository))
    print(check_repository_keys(sink, [anna, ben, PrivateKey.generate()]))

    print("-- Ben leaves: his access goes, and a new key protects what is stored from now on")
    print(apply_recipients(repository, plan_remove_recipients(repository, ben.public_key.key_id, opens_with=anna)))
    print(apply_recipients(repository, plan_rotate(repository, seal_to=[anna.public_key, words], opens_with=anna)))
    print(check_repository_keys(sink, [anna, ben]))


if __name__ == "__main__":
    main(Path(tempfile.mkdtemp(prefix="knowtation-backup-")))
