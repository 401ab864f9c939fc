"""Every fenced block of the README and the docs is executed, or known to be executed elsewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(?P<fence>`{3,}|:{3,})(?P<info>[^\n]*)\n(?P<code>.*?)^(?P=fence)[ ]*$", re.MULTILINE | re.DOTALL)
INERT = {"text", "json", "{toctree}", "{mermaid}", "{eval-rst}"}


def _blocks(page: Path) -> list[tuple[str, str]]:
    return [
        (match["info"].split()[0] if match["info"].strip() else "", match["code"])
        for match in FENCE.finditer(page.read_text())
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of one page share one namespace, top to bottom, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__page__"}
    text = page.read_text()
    for match in FENCE.finditer(text):
        if match["info"].strip() == "python":
            line = text.count("\n", 0, match.start("code"))
            exec(compile("\n" * line + match["code"], str(page), "exec"), namespace)  # noqa: S102 - the documentation's own code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_block_escapes_execution(page: Path) -> None:
    """Shell blocks are allowed in the README only, where CI runs the first two exactly as printed."""
    for language, code in _blocks(page):
        known = language in INERT or language.startswith("{auto") or language == "python"
        assert known or (page.name == "README.md" and language == "bash"), f"{language!r}: {code[:60]}"


def test_the_readme_has_the_two_commands_ci_runs() -> None:
    shell = [code.strip() for language, code in _blocks(ROOT / "README.md") if language == "bash"]
    assert len(shell) == 2
    assert shell[0].endswith("nox -s quickstart")
    assert shell[1].endswith("nox -s tests")
