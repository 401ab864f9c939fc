"""The benchmark of the repository runs to its end, on data a hundred times smaller, without peers."""

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"


def test_every_part_that_needs_no_server_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import _harness  # noqa: PLC0415 - benchmarks are no package
    import repository_bench  # noqa: PLC0415

    monkeypatch.setattr(_harness, "RESULTS", tmp_path)
    monkeypatch.setattr(repository_bench, "PEERS", ())
    parts = ["first", "incremental", "restore", "verify", "exports", "memory"]
    options = ["--scale", "128", "--runs", "1", "--days", "1"]
    monkeypatch.setattr(sys, "argv", ["repository_bench.py", *parts, *options])
    repository_bench.main()

    said = capsys.readouterr().out
    for line in ("first, round 1:", "v2, round 1:", "v3, round 1:", "restore, round 1:", "verify, round 1:"):
        assert f"{line}  ours" in said
    assert "restore of the last export, round 1:  ours" in said
    assert "6: memory of restore, 8 GiB against 0.5" in said
    rows = json.loads((tmp_path / "repository.json").read_text())
    assert "memory, verify" in {row["case"] for row in rows}
