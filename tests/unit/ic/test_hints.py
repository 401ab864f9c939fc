"""Whoever is refused an answer at night is told what to try, whatever was wrong with it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import knowtation_backup

_SOURCE = Path(knowtation_backup.__file__).parent
_FILES = sorted(path for name in ("ic", "snapshots") for path in (_SOURCE / name).glob("*.py"))


def without_hint(path: Path) -> Iterator[int]:
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Call(func=ast.Name(id="CertificateError" | "SourceUnavailableError"), keywords=keywords):
                if "hint" not in {keyword.arg for keyword in keywords}:
                    yield node.lineno


@pytest.mark.parametrize("path", _FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_refusal_of_an_answer_says_what_to_try(path: Path) -> None:
    assert list(without_hint(path)) == []
