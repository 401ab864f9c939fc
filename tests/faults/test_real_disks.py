"""
Real file systems that are full, read-only or limited.

A full disk and a read-only mount need a file system of our own: a tmpfs in a private mount namespace, which an
ordinary user may have on most Linux machines and root on all. Where the machine allows neither, the same is shown with
the one real limit every process can set for itself, and with injected errors in ``tests/unit/sinks``.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
STEM = "operator-full-export-"


def run(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - our own
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def namespace() -> list[str] | None:
    """Return the command that runs something where it may mount, or `None` where nobody may."""
    for command in (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"]):
        probe = [*command, "mount", "-t", "tmpfs", "none", "/tmp"]  # noqa: S108 - in its own namespace
        try:
            done = subprocess.run(probe, capture_output=True, timeout=20, check=False)  # noqa: S603 - our own
        except FileNotFoundError:
            return None
        if done.returncode == 0:
            return command
    return None


def test_a_full_disk_and_a_read_only_mount(tmp_path: Path) -> None:
    command = namespace()
    if command is None:
        limited(tmp_path)
        return
    result = run([*command, sys.executable, str(HERE / "in_namespace.py"), str(tmp_path)])
    assert result["fits"]["archive"].startswith(STEM)
    full = result["full"]
    assert (full["error"], full["kind"]) == ("SinkFullError", "no_space")
    assert full["free_bytes"] < 1 << 20
    assert "bytes are free" in full["hint"]
    assert f"more than {full['written_bytes']} bytes are needed" in full["hint"]
    assert not [name for name in result["files"] if ".upload-" in name]
    assert len([name for name in result["files"] if Path(name).name.startswith(STEM)]) == 1, "the one that fits"
    assert sorted(result["states"]) == ["complete", "unfinished"]
    assert result["verified"]
    assert (result["read-only"]["error"], result["read-only"]["kind"]) == ("SinkPermissionError", "sink_permission")
    assert result["read-only"]["hint"] == "it is mounted read-only"
    assert result["still readable"]


def limited(root: Path) -> None:
    result = run([sys.executable, str(HERE / "in_limits.py"), str(root)])
    assert (result["error"], result["kind"]) == ("SinkFullError", "file_too_large")
    assert "raise the limit on file sizes" in result["hint"]
    names = [path.name for path in root.rglob("*") if path.is_file()]
    assert names == ["started.json"]


def test_a_limit_on_file_sizes(tmp_path: Path) -> None:
    limited(tmp_path)


@pytest.mark.parametrize("data", [b"x", b"x" * 100_000])
def test_a_device_that_is_always_full(data: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The kernel's own ENOSPC, from /dev/full behind the temporary file."""
    import os  # noqa: PLC0415 - only this test redirects a descriptor

    from knowtation_backup._engine.local_files import is_temporary  # noqa: PLC0415
    from knowtation_backup.errors import SinkFullError  # noqa: PLC0415
    from knowtation_backup.sinks.fsspec import FsspecSink  # noqa: PLC0415

    real = os.open

    def redirect(path: Any, *args: Any, **kwargs: Any) -> int:
        descriptor = real(path, *args, **kwargs)
        if is_temporary(str(path)):
            full = real("/dev/full", os.O_WRONLY)
            os.dup2(full, descriptor)
            os.close(full)
        return descriptor

    monkeypatch.setattr(os, "open", redirect)
    with pytest.raises(SinkFullError, match="No space left on device"):
        FsspecSink(tmp_path).put("a", [data])
    assert list(tmp_path.iterdir()) == []
