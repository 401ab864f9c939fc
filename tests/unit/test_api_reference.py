"""The API reference shows every public name."""

import re
from pathlib import Path
from types import ModuleType

import pytest

import knowtation_backup
import knowtation_backup.sandbox
from knowtation_backup.sandbox import faults

PAGE = (Path(__file__).parent.parent.parent / "docs" / "reference" / "api.md").read_text()
SHOWN = set(re.findall(r"^\.\. auto(?:class|function|data):: (\S+)$", PAGE, re.MULTILINE))
WHOLE = set(re.findall(r"^\.\. automodule:: (\S+)$", PAGE, re.MULTILINE))


@pytest.mark.parametrize("module", [knowtation_backup, knowtation_backup.sandbox], ids=lambda module: module.__name__)
def test_every_public_name_is_shown(module: ModuleType) -> None:
    names = {name for name in module.__all__ if not isinstance(getattr(module, name), ModuleType)}
    if faults.__name__ in WHOLE:
        names -= set(faults.__all__)
    assert {name for name in names if f"{module.__name__}.{name}" not in SHOWN} == set()


def test_the_errors_are_named() -> None:
    assert "`knowtation_backup.errors`" in PAGE
