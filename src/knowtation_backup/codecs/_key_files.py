"""Files that hold a secret key: private to their owner, made once, complete or not at all, never overwritten."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from .._engine.local_files import NewFile, open_directory, os_errors_translated, read_range
from ..errors import ConfigurationError

__all__ = ["create_private", "read_private"]

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_MAX_FILE_BYTES: Final = 64 * 1024


def read_private(path: str | os.PathLike[str]) -> str:
    """
    Return the text of a key file.

    Raises:
        ConfigurationError: Others than its owner may use it, it is no regular file, or too large for a key.
        BlobNotFoundError: There is no such file.
        SinkPermissionError: Reading is refused.
    """
    origin = Path(path).absolute()
    with os_errors_translated(f"reading {origin}"):
        # Not blocking: the path may name a pipe.
        descriptor = os.open(origin, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            _check(origin, os.fstat(descriptor))
            data = b"".join(read_range(descriptor, 0, _MAX_FILE_BYTES + 1))
        finally:
            os.close(descriptor)
    if len(data) > _MAX_FILE_BYTES:
        raise ConfigurationError(f"{origin} is too large for a key file", kind="bad_key_text")
    return data.decode("ascii", "replace")


def _check(path: Path, facts: os.stat_result) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise ConfigurationError(f"{path} is no regular file", kind="bad_key_text")
    if facts.st_mode & _OTHERS:
        message = f"the key file {path} has mode {stat.S_IMODE(facts.st_mode):04o}: others may read or change it"
        hint = "chmod 600; if others may have read it, make a new key"
        raise ConfigurationError(message, kind="key_file_exposed", hint=hint)


def create_private(path: str | os.PathLike[str], text: Callable[[], str]) -> None:
    """
    Write *text* to a new file of mode 0600, in directories of mode 0700; do nothing when there is one.

    Raises:
        SinkError: Writing failed; nothing is there that was not before.
    """
    goal = Path(path).absolute()
    with os_errors_translated(f"writing {goal}"):
        if goal.exists():
            return
        directory = open_directory(goal.parent, create=True)
        try:
            with NewFile(directory, goal.name) as file, contextlib.suppress(FileExistsError):
                file.write(text().encode())
                file.publish()
        finally:
            os.close(directory)
