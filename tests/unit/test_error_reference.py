"""The error reference names every class, every kind and every code of a finding that the source can produce."""

import ast
import datetime as dt
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import knowtation_backup
from knowtation_backup import errors
from knowtation_backup._engine.local_files import translate_os_error
from knowtation_backup.hub.failures import HubReply, reply_error
from knowtation_backup.ic import rejections
from knowtation_backup.ic.answers import http_refusal
from knowtation_backup.ic.sending import HttpAnswer

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "reference" / "errors.md").read_text()
PACKAGE = Path(knowtation_backup.__file__).parent
OUTSIDE = ("sandbox", "testing")
"""They raise errors of their own, for tests."""

KIND_OWNERS = {*errors.__all__, "Problem"}
CODE_OWNERS = {"Finding": "code"}
CODE_FIRST = {"_remark", "note", "_compare", "_leave_out"}
"""Helpers whose first argument is the code of a finding."""


def _trees() -> Iterator[ast.Module]:
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0] not in OUTSIDE:
            yield ast.parse(path.read_text())


def _name(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _texts(value: ast.expr) -> set[str]:
    """Literals an argument may be: itself, or the branches of a conditional."""
    match value:
        case ast.Constant(value=str(text)):
            return {text}
        case ast.IfExp(body=body, orelse=orelse):
            return _texts(body) | _texts(orelse)
        case _:
            return set()


def _kinds() -> set[str]:
    found: set[str] = set()
    for tree in _trees():
        for node in ast.walk(tree):
            match node:
                case ast.Call() if _name(node) in KIND_OWNERS:
                    found.update(*(_texts(word.value) for word in node.keywords if word.arg == "kind"))
                case ast.Assign(targets=[ast.Name(id="default_kind" | "kind")], value=value):
                    found |= _texts(value)
                case ast.AnnAssign(target=ast.Name(id="default_kind"), value=ast.expr() as value):
                    found |= _texts(value)
                case _:
                    pass
    return found - {
        # kinds of payloads, not of errors
        "knowtation-operator-full-export",
        "knowtation-operator-vault-export",
        "knowtation-backup-records",
    }


def _codes() -> set[str]:
    found: set[str] = set()
    for tree in _trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                owner = CODE_OWNERS.get(_name(node))
                found.update(*(_texts(word.value) for word in node.keywords if owner and word.arg == owner))
                if _name(node) in CODE_FIRST and node.args:
                    found |= _texts(node.args[0])
    return found


def _rows(heading: str) -> set[str]:
    """First cells of the tables below a heading, without their backquotes."""
    _, _, section = PAGE.partition(f"\n## {heading}\n")
    section = re.split(r"\n## ", section, maxsplit=1)[0]
    return set(re.findall(r"^\| `([A-Za-z0-9_]+)`", section, re.MULTILINE))


def test_the_walk_finds_what_it_should() -> None:
    kinds = _kinds()
    assert {"unreachable", "bad_magic", "backup_error", "hub_unavailable", "vault_partial"} <= kinds
    assert {"hidden_vault", "payload_size", "size_mismatch", "not_markdown", "not_read"} <= _codes()


def test_every_class_is_on_the_page() -> None:
    classes = {name for name, value in vars(errors).items() if inspect.isclass(value)} & set(errors.__all__)
    assert _rows("Classes") == classes


def test_every_kind_is_on_the_page_and_no_other() -> None:
    statuses = [*range(300, 600)]
    codes = ["", "GATEWAY_AUTH_REQUIRED", "NOT_FOUND", "SERVICE_UNAVAILABLE", "OTHER"]
    replies = [HubReply(route="r", status=s, body=b'{"code":"%b"}' % c.encode()) for s in statuses for c in codes]
    moment = dt.datetime(2026, 4, 8, tzinfo=dt.UTC)
    computed = {reply_error(reply, secrets=(), now=moment).kind for reply in replies}
    computed |= {translate_os_error(OSError(number, "x"), "writing").kind for number in range(1, 134)}
    answers = [HttpAnswer(route="r", status=s, body=b"", cause=c) for s in statuses for c in ("", "canister_not_found")]
    computed |= {http_refusal(answer, now=moment).kind for answer in answers}
    computed |= {*rejections.KINDS.values(), *rejections.REJECT_KINDS.values(), "not_loadable"}
    assert _rows("Kinds") == _kinds() | computed


def test_every_code_of_a_finding_is_on_the_page_and_no_other() -> None:
    assert _rows("Findings") == _codes()


@pytest.mark.parametrize("name", sorted(_rows("Classes")))
def test_default_kinds_are_right(name: str) -> None:
    default = vars(errors)[name].default_kind
    assert re.search(rf"^\| `{name}` \| `{default}` \|", PAGE, re.MULTILINE)
