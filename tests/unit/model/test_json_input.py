"""A hostile text cannot exhaust the stack, even where a package raised the interpreter's recursion limit."""

import subprocess
import sys

import pytest

from knowtation_backup.model.json_input import check_nesting, check_values

_READERS = {
    "loads": "from knowtation_backup._engine.canonical import loads as read",
    "vault": "from knowtation_backup.exports.decoding import decode_vault\nread = lambda data: decode_vault(data, 'x')",
    "reader": """
from knowtation_backup import ExportReader
head = b'{"format_version":4,"kind":"knowtation-operator-full-export","users":[{"user_id":"a","proposals":['
read = lambda data: ExportReader([head + data]).read_all()
""",
    "details": "from knowtation_backup.model.details import ArchiveDetails\nread = ArchiveDetails.from_bytes",
    "manifest": "from knowtation_backup.model.manifest import Manifest\nread = Manifest.from_bytes",
    "statement": "from knowtation_backup import ContentStatement\nread = ContentStatement.from_bytes",
    "downtime": """
import pathlib, tempfile
from knowtation_backup.snapshots.journal import DowntimeJournal
directory = pathlib.Path(tempfile.mkdtemp())
def read(data):
    (directory / "rrkah-fqaaa-aaaaa-aaaaq-cai@0.json").write_bytes(data)
    DowntimeJournal(directory).entries()
""",
    "upload": """
from knowtation_backup.errors import IntegrityError
from knowtation_backup.snapshots.upload_journal import _parsed
def read(data):
    if _parsed(data) == {}:
        raise IntegrityError("nothing of it was read")
""",
    "snapshot": "from knowtation_backup.snapshots.metadata import parse_metadata as read",
}
_BOMBS = {"arrays": b"[", "objects": b'{"notes":', "mixed": b'[{"a":'}
_PROGRAM = """
import sys, threading
sys.setrecursionlimit(10**6)
{reader}
def run():
    try:
        read({bomb!r} * 300_000)
    except Exception as error:
        print(type(error).__name__)
thread = threading.Thread(target=run)
thread.start()
thread.join()
"""


@pytest.mark.parametrize("bomb", _BOMBS.values(), ids=_BOMBS)
@pytest.mark.parametrize("reader", _READERS.values(), ids=_READERS)
def test_a_bomb_is_an_error_not_a_crash(reader: str, bomb: bytes) -> None:
    program = _PROGRAM.format(reader=reader, bomb=bomb)
    result = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr[-500:]
    assert result.stdout.strip() in {"JsonError", "IntegrityError", "ManifestError", "ExportError", "SignatureError"}


def test_brackets_in_strings_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "getrecursionlimit", lambda: 10**6)
    check_nesting(b'{"a":"' + b"[" * 1000 + b'\\"' + b"{" * 1000 + b'","b":[]}')
    check_nesting(b"[" * 200 + b"]" * 200)
    check_nesting(b"[]" * 1000)
    with pytest.raises(ValueError, match="200 levels"):
        check_nesting(b"[" * 201)


def test_very_many_values_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("knowtation_backup.model.json_input.MAX_VALUES", 1000)
    check_values(b"[" + b"0," * 998 + b"0]")
    check_values(b'"' + b"x" * 10_000 + b'"')
    for dense in (b"[" + b"0," * 1000 + b"0]", b"[" + b"[]," * 500 + b"0]", b'[{"":{}}' + b',{"":{}}' * 400 + b"]"):
        with pytest.raises(ValueError, match="1000 values"):
            check_values(dense)
