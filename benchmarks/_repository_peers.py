"""
Programs that make incremental, encrypted backups of files: what is called with what, and what a call costs.

===============  ==============================================================================================
name             how
===============  ==============================================================================================
tar|zstd|age     ``tar | zstd -3 -T2 | age`` to a recipient: everything, every time
restic           defaults: content-defined chunks of 1 MiB on average, zstd
borg             defaults (content-defined chunks of 2 MiB on average), ``--compression zstd,3``
borg-64K         the same with ``--chunker-params fixed,65536``
borg-4K          the same with ``--chunker-params fixed,4096``
duplicity        defaults: rsync differences, GnuPG with a passphrase, which compresses
===============  ==============================================================================================

They are Debian's packages ``restic borgbackup duplicity age zstd gnupg``. One that is not installed is named in the
tables as missing. Each has its caches in the folder of its own, as full or as empty as its work so far has left them.

Time is that of the whole process, from start to end, as users wait for it. Processor time is that of it and all it
started. Memory is looked at fifty times a second: the largest sum over the tree of processes, or the largest any
process says it had, whichever is more.
"""

from __future__ import annotations

import abc
import contextlib
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs

PASSPHRASE = "a passphrase for measurements"  # noqa: S105 - of repositories that are thrown away
_SAMPLE_SECONDS = 0.02
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@attrs.frozen(kw_only=True)
class Cost:
    """What one call took."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    growth_bytes: int = 0
    """By how much the stored files grew."""
    inner_seconds: float | None = None
    """Ours only: the call alone, in a process that has the library imported already."""


def stored_bytes(folder: Path) -> int:
    """Return the bytes of all files in *folder*."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def run_measured(command: Sequence[str], *, environment: Mapping[str, str], cwd: Path | None = None) -> Cost:
    """
    Run a program to its end.

    Raises:
        RuntimeError: It failed; with the end of what it said.
    """
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603 - a benchmark's own reference
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=cwd
        )
        with _memory_watched(process.pid) as peaks:
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            said = output.read()[-2000:].decode(errors="replace")
            raise RuntimeError(f"{shlex.join(command)} ended with {process.returncode}:\n{said}")
    return Cost(wall_seconds=wall, cpu_seconds=usage.ru_utime + usage.ru_stime, peak_bytes=max(peaks, default=0))


@contextlib.contextmanager
def _memory_watched(pid: int) -> Iterator[list[int]]:
    peaks: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_SAMPLE_SECONDS):
            total, largest = 0, 0
            for each in _tree(pid):
                now, most = _memory(each)
                total += now
                largest = max(largest, most)
            peaks[:] = [max(*peaks, total, largest)]

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peaks
    finally:
        ended.set()
        watcher.join()


def _tree(pid: int) -> list[int]:
    """Return a process and its descendants."""
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def _memory(pid: int) -> tuple[int, int]:
    """Return the resident bytes of a process, and the most they have been."""
    try:
        with Path(f"/proc/{pid}/status").open() as status:
            values = dict(line.split(":", 1) for line in status)
        return tuple(int(values[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM"))  # type: ignore[return-value]
    except (OSError, KeyError, ValueError):  # it ended meanwhile
        return 0, 0


def digest(path: Path) -> bytes:
    """Return SHA-256 of a file; it is in the page cache then."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


class Tool(abc.ABC):
    """
    One way to make backups, with one repository, in a folder of its own.

    Args:
        folder: Where repository, keys and caches go.
    """

    name: str
    keeps_history = True
    """Whether a second backup stores less than the first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stored = folder / "stored"
        folder.mkdir(parents=True)

    @classmethod
    @abc.abstractmethod
    def missing(cls) -> str | None:
        """Return what is not installed; `None` when everything is."""

    def create(self) -> None:
        """Make the repository and its keys; not measured."""
        self.stored.mkdir()

    def backup(self, source: Path, number: int) -> Cost:
        """Back up a directory as archive *number*, from 0; it always has the same name."""
        before = stored_bytes(self.stored)
        cost = self._backup(source, number)
        return attrs.evolve(cost, growth_bytes=stored_bytes(self.stored) - before)

    def restore(self, number: int, target: Path) -> Cost:
        """Restore archive *number*, the newest one, into a directory; it is then below it, under its name."""
        target.mkdir(parents=True)
        return self._restore(number, target)

    def gave_back(self, path: Path, folder: Path) -> bool:
        """Whether a file is among what was restored into a folder."""
        return digest(path) == digest(folder / path.name)

    def verify(self, source: Path, number: int) -> Cost:
        """Read back and check everything stored, or what the program can do; *source* is what *number* holds."""
        return self._verify(source, number)

    def close(self) -> None:
        """End what was left running, and remove the folder."""
        shutil.rmtree(self.folder)

    @abc.abstractmethod
    def _backup(self, source: Path, number: int) -> Cost: ...

    @abc.abstractmethod
    def _restore(self, number: int, target: Path) -> Cost: ...

    @abc.abstractmethod
    def _verify(self, source: Path, number: int) -> Cost: ...


class Peer(Tool):
    """A tool that is a program."""

    programs: tuple[str, ...]

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.environment = {"PATH": os.environ["PATH"], "HOME": os.fspath(folder), "LC_ALL": "C.UTF-8"}

    @classmethod
    def missing(cls) -> str | None:
        """Return which program is not installed; `None` when all are."""
        return next((name for name in cls.programs if shutil.which(name) is None), None)

    def _backup(self, source: Path, number: int) -> Cost:
        return self._run(self.backup_command(source, number), cwd=source.parent)

    def _restore(self, number: int, target: Path) -> Cost:
        return self._run(self.restore_command(number, target), cwd=target)

    def _verify(self, source: Path, number: int) -> Cost:
        return self._run(self.verify_command(source, number), cwd=source.parent)

    def _run(self, command: Sequence[str], *, cwd: Path) -> Cost:
        return run_measured(command, environment=self.environment, cwd=cwd)

    @abc.abstractmethod
    def backup_command(self, source: Path, number: int) -> list[str]:
        """Return what backs up."""

    @abc.abstractmethod
    def restore_command(self, number: int, target: Path) -> list[str]:
        """Return what restores."""

    @abc.abstractmethod
    def verify_command(self, source: Path, number: int) -> list[str]:
        """Return what verifies."""


class TarZstdAge(Peer):
    """No history at all: the fastest way to compress and encrypt a directory, and the smallest."""

    name = "tar|zstd|age"
    programs = ("tar", "zstd", "age", "age-keygen")
    keeps_history = False

    def create(self) -> None:
        """Make a key."""
        super().create()
        self._key = self.folder / "key.txt"
        self._run(["age-keygen", "-o", os.fspath(self._key)], cwd=self.folder)
        public = next(line for line in self._key.read_text().splitlines() if line.startswith("# public key:"))
        self._recipient = public.split()[-1]

    def backup_command(self, source: Path, number: int) -> list[str]:
        """Return a pipeline into one file."""
        into = shlex.quote(os.fspath(self._file(number)))
        return _shell(f"tar -cf - {shlex.quote(source.name)} | zstd -3 -T2 -q | age -r {self._recipient} -o {into}")

    def restore_command(self, number: int, target: Path) -> list[str]:
        """Return the pipeline back."""
        return _shell(f"{self._plain(number)} | tar -xf - -C {shlex.quote(os.fspath(target))}")

    def verify_command(self, source: Path, number: int) -> list[str]:
        """Return a pipeline that reads everything and keeps nothing."""
        del source
        return _shell(f"{self._plain(number)} | tar -tf -")

    def _plain(self, number: int) -> str:
        key, file = shlex.quote(os.fspath(self._key)), shlex.quote(os.fspath(self._file(number)))
        return f"age -d -i {key} {file} | zstd -d -q"

    def _file(self, number: int) -> Path:
        return self.stored / f"{number}.tar.zst.age"


class Restic(Peer):
    """Content-defined chunks of about 1 MiB."""

    name = "restic"
    programs = ("restic",)

    def create(self) -> None:
        """Initialize; the cost of the key derivation, at every later start too, is chosen by the program."""
        super().create()
        self.environment |= {
            "RESTIC_PASSWORD": PASSPHRASE,
            "RESTIC_REPOSITORY": os.fspath(self.stored),
            "RESTIC_CACHE_DIR": os.fspath(self.folder / "cache"),
        }
        self._run(["restic", "init", "-q"], cwd=self.folder)

    def backup_command(self, source: Path, number: int) -> list[str]:
        """Return the command for one directory."""
        return ["restic", "backup", "-q", "--tag", str(number), source.name]

    def restore_command(self, number: int, target: Path) -> list[str]:
        """Return the command for the newest archive with this tag."""
        return ["restic", "restore", "-q", "--tag", str(number), "--target", os.fspath(target), "latest"]

    def verify_command(self, source: Path, number: int) -> list[str]:
        """Return the command that reads all packs."""
        del source, number
        return ["restic", "check", "-q", "--read-data"]


class Borg(Peer):
    """Content-defined chunks of about 2 MiB."""

    name = "borg"
    programs = ("borg",)
    chunker: tuple[str, ...] = ()

    def create(self) -> None:
        """Initialize with the cipher this machine is faster at."""
        super().create()
        self.environment |= {
            "BORG_PASSPHRASE": PASSPHRASE,
            "BORG_REPO": os.fspath(self.stored),
            "BORG_BASE_DIR": os.fspath(self.folder),
            "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
        }
        # Key ids are SHA-256 in one mode and BLAKE2 in the other; processors are faster at the first when they know it.
        mode = "repokey" if "sha_ni" in Path("/proc/cpuinfo").read_text() else "repokey-blake2"
        self._run(["borg", "init", "--encryption", mode], cwd=self.folder)

    def backup_command(self, source: Path, number: int) -> list[str]:
        """Return the command for one directory."""
        return ["borg", "create", "--compression", "zstd,3", *self.chunker, f"::{number}", source.name]

    def restore_command(self, number: int, target: Path) -> list[str]:
        """Return the command, which restores where it is run."""
        del target
        return ["borg", "extract", f"::{number}"]

    def verify_command(self, source: Path, number: int) -> list[str]:
        """Return the command that decrypts all chunks."""
        del source, number
        return ["borg", "check", "--verify-data"]


class Borg64K(Borg):
    """Chunks of 64 KiB."""

    name = "borg-64K"
    chunker = ("--chunker-params", "fixed,65536")


class Borg4K(Borg):
    """Chunks as large as pages: borg at its best where pages change."""

    name = "borg-4K"
    chunker = ("--chunker-params", "fixed,4096")


class Duplicity(Peer):
    """Differences between files, as rsync finds them; each backup needs all before it."""

    name = "duplicity"
    programs = ("duplicity", "gpg")

    def create(self) -> None:
        """Prepare GnuPG; the repository makes itself."""
        super().create()
        # Sockets of gpg's agent have short names at most, so its home is not in our folder.
        self._home = Path(tempfile.mkdtemp(prefix="gnupg-"))
        self.environment |= {"PASSPHRASE": PASSPHRASE, "GNUPGHOME": os.fspath(self._home)}

    def backup_command(self, source: Path, number: int) -> list[str]:
        """Return the command for a full or an incremental backup."""
        self._name = source.name
        return [*self._command("incremental" if number else "full"), os.fspath(source), self._url]

    def restore_command(self, number: int, target: Path) -> list[str]:
        """Return the command; only the newest archive is ever asked for."""
        del number
        return [*self._command("restore"), self._url, os.fspath(target / self._name)]

    def verify_command(self, source: Path, number: int) -> list[str]:
        """Return the command, which compares with the source: it has no other."""
        del number
        return [*self._command("verify", "--compare-data"), self._url, os.fspath(source)]

    def close(self) -> None:
        """End GnuPG's agent, then as ever."""
        subprocess.run(["gpgconf", "--kill", "all"], env=self.environment, check=False)  # noqa: S607 - the user's
        shutil.rmtree(self._home, ignore_errors=True)
        super().close()

    @property
    def _url(self) -> str:
        return f"file://{self.stored}"

    def _command(self, *verb: str) -> list[str]:
        cache = self.folder / "cache"
        return ["duplicity", *verb, "--archive-dir", os.fspath(cache), "--tempdir", os.fspath(self.folder)]


PEERS: tuple[type[Peer], ...] = (TarZstdAge, Restic, Borg, Borg64K, Borg4K, Duplicity)


def _shell(pipeline: str) -> list[str]:
    return ["bash", "-o", "pipefail", "-c", pipeline]
