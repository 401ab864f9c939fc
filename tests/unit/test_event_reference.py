"""The event reference names every event the source can tell, with exactly its fields."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import knowtation_backup

PAGE = (Path(__file__).parent.parent.parent / "docs" / "reference" / "events.md").read_text()
PACKAGE = Path(knowtation_backup.__file__).parent
OUTSIDE = ("sandbox", "testing")
ROW = re.compile(r"^\| `(?P<name>[a-z_]+\.[a-z_]+)` \| (?P<fields>[^|]*) \|", re.MULTILINE)


def _calls() -> Iterator[ast.Call]:
    """Every ``Event(name=…, fields=…)`` and ``….tell(name, **fields)`` with a literal name."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0] not in OUTSIDE:
            yield from (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))


def _told() -> dict[str, set[str]]:
    """Names of events, and those of their fields that are written out where they are told."""
    found: dict[str, set[str]] = {}
    for call in _calls():
        words = {word.arg: word.value for word in call.keywords if word.arg is not None}
        match call.func:
            case ast.Name(id="Event"):
                name, fields = words.get("name"), words.get("fields")
                literal = {
                    key.value
                    for key in (fields.keys if isinstance(fields, ast.Dict) else ())
                    if isinstance(key, ast.Constant) and isinstance(key.value, str)
                }
            case ast.Attribute(attr="_tell" | "tell"):
                name, literal = (call.args[0] if call.args else None), set(words)
            case _:
                continue
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            found.setdefault(name.value, set()).update(literal)
    return found


def _documented() -> dict[str, set[str]]:
    """Fields by name; an event that several sources tell has several rows."""
    found: dict[str, set[str]] = {}
    for match in ROW.finditer(PAGE):
        found.setdefault(match["name"], set()).update(re.findall(r"`([a-z_]+)`", match["fields"]))
    return found


def test_every_event_is_on_the_page_and_no_other() -> None:
    assert len(_told()) >= 16
    assert _documented().keys() == _told().keys()


def test_written_out_fields_are_on_the_page() -> None:
    documented = _documented()
    assert {name: fields - documented[name] for name, fields in _told().items() if fields - documented[name]} == {}
