"""
QURI's metadata backup: one directory per run with the printed status of every canister, and a manifest.

::

    <output directory>/20261121_060000/
        rune-engine_status.txt    what ``dfx canister status`` prints; rune-engine_status.json  what ``icp`` prints
        rune-engine_info.txt      what ``dfx canister info`` prints;   rune-engine_info.json
        rune-engine_metrics.txt   heading and the lines of interest;   rune-engine_metrics.json
        rune-engine_facts.json    everything `CanisterFacts` holds
        MANIFEST.txt              what really happened, with digests;  MANIFEST.json

The directory is written under a hidden name and appears complete. No ``_export.txt`` is written: canisters without a
method for it would only leave an error text there.

Source:
    contracts 4.2.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from .._engine import canonical
from .._engine.cancellation import Cancellation
from .._engine.local_files import NewFile, open_directory, os_errors_translated, sync_directory
from ..contracts import Clock, Observer, ignore_events, utc_now
from ..errors import BlobExistsError, ConfigurationError
from ..model.canisters import CanisterStatus, PublicInfo
from ..model.ids import Principal
from ..model.moments import utc_of
from ..model.reports import Outcome
from .facts import CanisterFacts, FleetFacts, FleetItem, capture_all
from .registry import CanisterRegistry
from .status_text import info_text, metric_lines, status_text

if TYPE_CHECKING:
    from ..ic.management import ManagementCanister

__all__ = ["MetadataBackupReport", "back_up_metadata"]

MANIFEST: Final = "MANIFEST.txt"
_FORMAT: Final = "knowtation-canister-metadata"


@attrs.frozen(kw_only=True)
class MetadataBackupReport:
    """What one run wrote."""

    directory: Path | None
    """Where it is; `None` when not one canister could be read, and so nothing was written."""
    taken_at: dt.datetime
    fleet: FleetFacts
    files: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """`OK`, `PARTIAL` when a canister failed or only its public facts were to be had, `FAILED` when all failed."""
        return self.fleet.outcome

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts: 0 all, 3 some, 1 none."""
        return int(self.outcome)

    def __str__(self) -> str:
        """Return a line per canister."""
        place = "nothing was written" if self.directory is None else f"{len(self.files)} files in {self.directory}"
        lines = [f"metadata of {len(self.fleet.items)} canister(s): {self.outcome.name}, {place}"]
        return "\n".join(lines + [f"  {item.name}: {_result(item)}" for item in self.fleet.items])


def back_up_metadata(  # noqa: PLR0913 - what, where, and the usual parts
    management: ManagementCanister,
    canisters: CanisterRegistry | Iterable[Principal | str],
    output_directory: str | Path = "backups",
    *,
    workers: int = 4,
    certified: bool = True,
    logs: bool = False,
    observer: Observer = ignore_events,
    clock: Clock = utc_now,
    cancellation: Cancellation | None = None,
) -> MetadataBackupReport:
    """
    Write a directory with the status of every canister. One that fails does not stop the others.

    Args:
        management: Calls as a controller; of canisters it does not control only public information is written.
        canisters: A registry, or ids, each of which names itself.
        output_directory: Made when missing; the backup is a directory in it, named by the UTC moment.
        workers: Most canisters at once.
        certified: Whether the subnet is to sign each status.
        logs: Whether ``_facts.json`` is to hold the log, too.
        observer: Told ``facts.captured`` and ``facts.failed``.
        clock: Dates and names the backup.
        cancellation: Ends the whole; nothing is written then.

    Raises:
        ConfigurationError: Nothing is to be backed up (``no_canister_selected``).
        BlobExistsError: There is a backup of this second.
        SinkError: The directory cannot be written.
        OperationCancelledError: *cancellation* was raised.
    """
    if isinstance(canisters, CanisterRegistry):
        network = ", ".join(dict.fromkeys(entry.network for entry in canisters))
    else:
        canisters, network = tuple(canisters), "ic"
    if not canisters:
        message = "no canister is to be backed up"
        raise ConfigurationError(message, kind="no_canister_selected", hint="pass a registry with at least one")
    taken_at = utc_of(clock())
    fleet = capture_all(
        management,
        canisters,
        workers=workers,
        logs=logs,
        certified=certified,
        observer=observer,
        clock=clock,
        cancellation=cancellation,
    )
    if fleet.outcome is Outcome.FAILED:
        return MetadataBackupReport(directory=None, taken_at=taken_at, fleet=fleet)
    target = Path(output_directory).absolute() / f"{taken_at.year:04}{taken_at:%m%d_%H%M%S}"
    files = {name: content for item in fleet.items for name, content in _files_of(item)}
    files |= dict(_manifest(target, network, taken_at, utc_of(clock()), fleet, files))
    with os_errors_translated(f"writing {target}"):
        _publish(target, files)
    return MetadataBackupReport(directory=target, taken_at=taken_at, fleet=fleet, files=tuple(files))


def _publish(target: Path, files: dict[str, bytes]) -> None:
    """Let a directory appear complete: written under a hidden name, flushed, renamed."""
    hidden = f".{target.name}.{secrets.token_hex(4)}.partial"  # hidden, so that no pattern of a script takes it
    parent_fd = open_directory(target.parent, create=True)
    try:
        _write(target.parent, hidden, files)
        _rename(parent_fd, hidden, target)
        sync_directory(parent_fd)
    except BaseException:
        with contextlib.suppress(OSError):
            shutil.rmtree(target.parent / hidden)
        raise
    finally:
        os.close(parent_fd)


def _write(parent: Path, name: str, files: dict[str, bytes]) -> None:
    directory_fd = open_directory(parent, [name], create=True)
    try:
        for file_name, content in files.items():
            with NewFile(directory_fd, file_name) as file:
                file.write(content)
                file.publish()
        sync_directory(directory_fd)
    finally:
        os.close(directory_fd)


def _rename(parent_fd: int, hidden: str, target: Path) -> None:
    if not target.exists():
        try:
            os.rename(hidden, target.name, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)
        except OSError as error:  # one made meanwhile is not replaced, unless it is empty
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                raise
        else:
            return
    raise BlobExistsError(f"{target} exists", hint="there is a backup of this second; try again")


def _files_of(item: FleetItem) -> Iterator[tuple[str, bytes]]:
    facts, name = item.facts, item.name
    if facts is None:
        return
    info = PublicInfo(canister_id=facts.canister_id, controllers=facts.controllers, module_hash=facts.module_hash)
    text = info_text(info)
    if facts.status is not None:
        text = status_text(facts.status, name=name)
        yield f"{name}_status.txt", text.encode()
        yield f"{name}_status.json", _json(_status_object(name, facts.status))
    yield f"{name}_info.txt", info_text(info).encode()
    yield f"{name}_info.json", _json(_info_object(name, facts))
    lines = metric_lines(text)
    head = [
        f"Metrics of {name}",
        f"Canister: {name}",
        f"ID: {facts.canister_id}",
        f"Timestamp: {_seconds(facts.captured_at)}",
        "",
    ]
    yield f"{name}_metrics.txt", _text([*head, *lines])
    metrics = dict(line.strip().split(": ", 1) for line in lines if ": " in line)
    named = {"canister": name, "id": str(facts.canister_id), "timestamp": _seconds(facts.captured_at)}
    yield f"{name}_metrics.json", _json({**named, "metrics": metrics})
    yield f"{name}_facts.json", facts.to_bytes()


def _status_object(name: str, status: CanisterStatus) -> dict[str, Any]:
    """Return a status as ``icp canister status --json`` prints it: every number a text."""
    settings: dict[str, Any] = {"controllers": [str(item) for item in status.settings.controllers]}
    for key, value in sorted(status.settings.values.items()):
        if isinstance(value, int):
            settings[key] = f"{value:_}"
        elif key == "environment_variables":
            settings[key] = [{"name": variable, "value": text} for variable, text in value.items()]
        elif key.endswith("_visibility") and isinstance(value, tuple):
            settings[key] = {"type": "AllowedViewers", "value": [str(viewer) for viewer in value]}
        elif key.endswith("_visibility"):
            settings[key] = {"type": str(value).capitalize()}
    numbers = {
        "memory_size": status.memory_size_bytes,
        "cycles": status.cycles,
        "reserved_cycles": status.reserved_cycles,
        "idle_cycles_burned_per_day": status.idle_cycles_burned_per_day,
    }
    return {
        "id": str(status.canister_id),
        "name": name,
        "status": status.run_state.value.capitalize(),
        "settings": settings,
        "module_hash": _hash(status.module_hash),
        **{key: f"{number:_}" for key, number in numbers.items() if number is not None},
        "query_stats": {key: f"{number:_}" for key, number in status.query_stats.items()},
    }


def _info_object(name: str, facts: CanisterFacts) -> dict[str, Any]:
    return {
        "id": str(facts.canister_id),
        "name": name,
        "controllers": [str(item) for item in facts.controllers],
        "module_hash": _hash(facts.module_hash),
    }


def _manifest(  # noqa: PLR0913, PLR0917 - what it lists
    target: Path,
    network: str,
    taken_at: dt.datetime,
    finished_at: dt.datetime,
    fleet: FleetFacts,
    files: dict[str, bytes],
) -> Iterator[tuple[str, bytes]]:
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    outcome = fleet.outcome.name
    yield (
        MANIFEST,
        _text(
            [
                "Canister metadata backup",
                f"Backup Date: {_seconds(taken_at)}",
                f"Network: {network}",
                f"Backup Directory: {target}",
                f"Outcome: {outcome}",
                "",
                "Canisters:",
                *(f"- {item.name}: {item.canister_id}" for item in fleet.items),
                "",
                "Results:",
                *(f"  {item.name}: {_result(item)}" for item in fleet.items),
                "",
                "Files:",
                *(f"-rw------- {len(content):>12} {name}" for name, content in files.items()),
                "",
                "SHA-256:",  # as sha256sum prints them, so that its --check reads these lines
                *(f"{digest}  {name}" for name, digest in digests.items()),
                "",
                f"Backup completed at {_seconds(finished_at)}",
            ]
        ),
    )
    value = {
        "format": _FORMAT,
        "format_version": 1,
        "backup_date": _seconds(taken_at),
        "completed_at": _seconds(finished_at),
        "network": network,
        "backup_directory": str(target),
        "outcome": outcome,
        "canisters": [
            {
                "name": item.name,
                "id": str(item.canister_id),
                "result": _result(item),
                "error": None if item.error is None else item.error.kind,
            }
            for item in fleet.items
        ],
        "files": [
            {"name": name, "size_bytes": len(content), "sha256": digests[name]} for name, content in files.items()
        ],
    }
    yield "MANIFEST.json", _json(value)


def _result(item: FleetItem) -> str:
    if item.error is not None:
        return f"FAILED ({item.error.kind})"
    return "ok" if item.ok else "public information only"


def _seconds(moment: dt.datetime) -> str:
    return f"{moment.replace(tzinfo=None).isoformat(timespec='seconds')}Z"


def _hash(value: bytes | None) -> str | None:
    return None if value is None else f"0x{value.hex()}"


def _text(lines: list[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode()


def _json(value: dict[str, Any]) -> bytes:
    return canonical.dumps(value) + b"\n"
