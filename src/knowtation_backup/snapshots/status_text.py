"""
The status of a canister as text: written as ``dfx`` prints it, read as any ``dfx`` or ``icp`` printed it.

``dfx`` prints ``Key: value`` lines; releases differ in the lines, in units and in spelling (``Memory Size: Nat(17)``,
``Memory Size: 17 Bytes``). ``icp`` prints indented lines, or one JSON object per canister and line whose numbers are
texts such as ``"2_592_000"``. Unknown lines are ignored, since existing files hold warnings and progress as well. A
value with a line feed in it (an environment variable) can imitate a line: what is stated twice, and differently, is
therefore not believed.

Source:
    contracts 3.2, 3.3 and 4.2; output of icp 1.5.0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import attrs

from ..errors import BackupError, UnsupportedFormatError
from ..model.canisters import CanisterStatus, PublicInfo, RunState
from ..model.ids import Principal
from ..model.json_input import check_nesting

__all__ = ["MAX_TEXT_BYTES", "StatusText", "info_text", "metric_lines", "parse_status", "parse_statuses", "status_text"]

MAX_TEXT_BYTES: Final = 4 << 20
"""Longer outputs are refused."""

_METRIC_WORDS: Final = ("Status", "Memory", "Freezing", "Balance", "Module hash", "Controllers")
"""Lines with one of these go into ``<name>_metrics.txt`` (contracts 4.2)."""


@attrs.frozen(kw_only=True)
class StatusText:
    """
    What a printed status says; `None` and empty where it says nothing.

    ``settings`` and ``query_stats`` bear the interface's names, as in `CanisterStatus`.
    """

    name: str | None = None
    canister_id: Principal | None = None
    run_state: RunState | None = None
    controllers: tuple[Principal, ...] | None = None
    module_hash: bytes | None = None
    has_code: bool | None = None
    """Whether a module is installed; a printed ``None`` says that none is."""
    cycles: int | None = None
    reserved_cycles: int | None = None
    memory_size_bytes: int | None = None
    idle_cycles_burned_per_day: int | None = None
    settings: Mapping[str, Any] = attrs.field(factory=dict)
    query_stats: Mapping[str, int] = attrs.field(factory=dict)

    @property
    def public_only(self) -> bool:
        """Whether it says no more than anybody may read."""
        return self.run_state is None and self.cycles is None


# Writing.


def status_text(status: CanisterStatus, *, name: str | None = None) -> str:
    """
    Return the lines that ``dfx canister status`` prints.

    Args:
        status: As the management canister answered.
        name: How the heading calls the canister; its id by default.
    """
    settings = status.settings.values
    pairs: list[tuple[str, str | None]] = [
        ("Status", status.run_state.value.capitalize()),
        ("Controllers", " ".join(sorted(map(str, status.settings.controllers)))),
        ("Memory allocation", _amount(settings.get("memory_allocation"), "Bytes")),
        ("Compute allocation", _amount(settings.get("compute_allocation"), "%")),
        ("Freezing threshold", _amount(settings.get("freezing_threshold"), "Seconds")),
        ("Idle cycles burned per day", _amount(status.idle_cycles_burned_per_day, "Cycles")),
        ("Memory Size", _amount(status.memory_size_bytes, "Bytes")),
        ("Balance", _amount(status.cycles, "Cycles")),
        ("Reserved", _amount(status.reserved_cycles, "Cycles")),
        ("Reserved cycles limit", _amount(settings.get("reserved_cycles_limit"), "Cycles")),
        ("Wasm memory limit", _amount(settings.get("wasm_memory_limit"), "Bytes")),
        ("Wasm memory threshold", _amount(settings.get("wasm_memory_threshold"), "Bytes")),
        ("Module hash", _hash(status.module_hash)),
        ("Number of queries", _amount(status.query_stats.get("num_calls_total"))),
        ("Instructions spent in queries", _amount(status.query_stats.get("num_instructions_total"))),
        ("Total query request payload size", _amount(status.query_stats.get("request_payload_bytes_total"), "Bytes")),
        ("Total query response payload size", _amount(status.query_stats.get("response_payload_bytes_total"), "Bytes")),
        *((f"{kind} visibility", _visibility(settings.get(f"{kind.lower()}_visibility"))) for kind in _VISIBILITIES),
    ]
    lines = [f"Canister status call result for {name or status.canister_id}."]
    return "\n".join(lines + [f"{key}: {value}" for key, value in pairs if value is not None]) + "\n"


def info_text(info: PublicInfo) -> str:
    """Return the two lines that ``dfx canister info`` prints."""
    controllers = " ".join(sorted(map(str, info.controllers)))
    return f"Controllers: {controllers}\nModule hash: {_hash(info.module_hash)}\n"


def metric_lines(text: str) -> list[str]:
    """Return those lines of a status that go into ``<name>_metrics.txt``."""
    return [line for line in text.splitlines() if any(word in line for word in _METRIC_WORDS)]


_VISIBILITIES: Final = ("Log", "Snapshot", "Status")


def _amount(value: object, unit: str = "") -> str | None:
    return f"{value:_} {unit}".rstrip() if isinstance(value, int) else None


def _hash(value: bytes | None) -> str:
    return "None" if value is None else f"0x{value.hex()}"


def _visibility(value: object) -> str | None:
    if isinstance(value, tuple):
        viewers = ", ".join(sorted(map(str, value)))
        return f"allowed viewers: {viewers}" if viewers else "allowed viewers list is empty"
    return value if isinstance(value, str) else None


# Reading.


def parse_status(text: str | bytes) -> StatusText:
    """
    Return the one status that was printed.

    Raises:
        UnsupportedFormatError: It holds no status, or several (``not_a_status``).
    """
    found = parse_statuses(text)
    if len(found) != 1:
        raise _not_a_status(f"it holds {len(found)} of them")
    return found[0]


def parse_statuses(text: str | bytes) -> tuple[StatusText, ...]:
    """
    Return every status that was printed; ``icp`` and ``dfx`` print several with ``--all``.

    Raises:
        UnsupportedFormatError: Nothing in it is the status of a canister, or it is too long (``not_a_status``).
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(data) > MAX_TEXT_BYTES:
        raise _not_a_status(f"it is longer than {MAX_TEXT_BYTES} bytes")
    plain = data.decode("utf-8", "replace")
    found = tuple(_of_json(plain) if plain.lstrip().startswith("{") else _of_lines(plain))
    if not found:
        raise _not_a_status("no line of it is known")
    return found


def _not_a_status(why: str) -> UnsupportedFormatError:
    message = f"this is not what dfx or icp print as the status of a canister: {why}"
    return UnsupportedFormatError(message, kind="not_a_status", hint="an existing file may hold only an error text")


def _of_json(text: str) -> Iterator[StatusText]:
    """Read one object, or one per line; what is not JSON (progress, warnings) is skipped."""
    for part in _json_texts(text):
        try:
            check_nesting(part.encode())
            value = json.loads(part)
        except (ValueError, RecursionError):
            continue
        fact = _of_object(value) if isinstance(value, dict) else StatusText()
        if fact != StatusText():
            yield fact


def _json_texts(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if line.strip()]
    whole = len(lines) > 1 and lines[0].strip() in {"{", "[{"}  # printed with indents, as jq does
    return [text] if whole else lines


def _of_object(value: Mapping[str, Any]) -> StatusText:
    given = value.get("settings")
    settings: Mapping[str, Any] = given if isinstance(given, dict) else {}
    stats = value.get("query_stats")
    digest = value.get("module_hash", "absent")
    facts = _Facts()
    facts.put("name", value.get("name") if isinstance(value.get("name"), str) else None)
    facts.put("canister_id", _principal(value.get("id")))
    facts.put("run_state", _run_state(value.get("status")))
    facts.put("controllers", _principals(settings.get("controllers", value.get("controllers"))))
    facts.put_hash("None" if digest is None else digest)
    for name in ("cycles", "reserved_cycles", "idle_cycles_burned_per_day"):
        facts.put(name, _number(value.get(name)))
    facts.put("memory_size_bytes", _number(value.get("memory_size")))
    for name in _SETTINGS:
        facts.put_setting(name, _number(settings.get(name)))
    for kind in _VISIBILITIES:
        name = f"{kind.lower()}_visibility"
        facts.put_setting(name, _visibility_of_object(settings.get(name)))
    facts.put_setting("environment_variables", _variables(settings.get("environment_variables")))
    if isinstance(stats, dict):
        for name in _STATS:
            facts.put_stat(name, _number(stats.get(name)))
    return facts.done()


_HEADING: Final = re.compile(r"(?:Canister status call result for (?P<name>\S+?)\.|Canister Id: (?P<id>\S+))\s*$")
_OLD: Final = re.compile(r"Canister (?P<name>\S+?)'s status is (?P<state>\w+)\.\s*$")
_LINE: Final = re.compile(r"\s*(?P<key>[A-Za-z][A-Za-z ()]{0,60}?)\s*:(?:\s+(?P<value>.*?))?\s*$")
_VARIABLE: Final = re.compile(r"\s*Name: (?P<name>.*?), Value: (?P<value>.*)$")
_NUMBER: Final = re.compile(
    r"(?:Nat\()?(?P<digits>[0-9][0-9_]{0,150})\)?(?:\s*(?:bytes|cycles|seconds|%))?", re.IGNORECASE
)
_HASH: Final = re.compile(r"(?:0x)?([0-9a-f]{64})", re.IGNORECASE)

_SETTINGS: Final = (
    "compute_allocation",
    "memory_allocation",
    "freezing_threshold",
    "reserved_cycles_limit",
    "minimum_incoming_canister_call_cycles",
    "wasm_memory_limit",
    "wasm_memory_threshold",
    "log_memory_limit",
)
_STATS: Final = (
    "num_calls_total",
    "num_instructions_total",
    "request_payload_bytes_total",
    "response_payload_bytes_total",
)
_STAT_LINES: Final[Mapping[str, str]] = {
    "number of queries": "num_calls_total",
    "calls": "num_calls_total",
    "instructions spent in queries": "num_instructions_total",
    "instructions": "num_instructions_total",
    "total query request payload size": "request_payload_bytes_total",
    "total query request payload size (bytes)": "request_payload_bytes_total",
    "total query request paylod size (bytes)": "request_payload_bytes_total",  # codespell:ignore paylod
    "req payload bytes": "request_payload_bytes_total",
    "total query response payload size": "response_payload_bytes_total",
    "total query response payload size (bytes)": "response_payload_bytes_total",
    "res payload bytes": "response_payload_bytes_total",
}
_NUMBER_LINES: Final[Mapping[str, str]] = {
    "balance": "cycles",
    "cycle balance": "cycles",
    "cycles": "cycles",
    "memory size": "memory_size_bytes",
    "idle cycles burned per day": "idle_cycles_burned_per_day",
    "reserved": "reserved_cycles",
    "reserved cycles": "reserved_cycles",
}


class _Facts:
    """What is being read of one canister; a second, different statement makes both void."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, Any]] = {"": {}, "settings": {}, "query_stats": {}}
        self._void: set[tuple[str, str]] = set()
        self.listed: dict[str, list[Principal]] = {}
        """What icp lists line by line: controllers, and viewers by what they may view."""
        self.variables: dict[str, str] = {}

    def put(self, name: str, value: object, group: str = "") -> None:
        if value is None or (group, name) in self._void:
            return
        if self._values[group].setdefault(name, value) != value:
            del self._values[group][name]
            self._void.add((group, name))

    def put_setting(self, name: str, value: object) -> None:
        self.put(name, value, "settings")

    def put_stat(self, name: str, value: object) -> None:
        self.put(name, value, "query_stats")

    def put_hash(self, value: object) -> None:
        match = _HASH.fullmatch(value) if isinstance(value, str) else None
        if match is not None or value in {"None", "<none>"}:  # dfx, icp
            self.put("hash", (None if match is None else bytes.fromhex(match[1]),))

    def put_heading(self, name: str | None = None, id: str | None = None, state: str | None = None) -> None:  # noqa: A002 - the groups of the patterns
        found = _principal(id or name)
        self.put("canister_id", found)
        self.put("name", name if found is None else None)
        self.put("run_state", _run_state(state))

    def done(self) -> StatusText:
        for key, listed in self.listed.items():
            if key == "controller":
                self.put("controllers", tuple(sorted(listed)))
            else:
                self.put_setting(f"{key}_visibility", tuple(sorted(listed)))
        self.put_setting("environment_variables", self.variables or None)
        own = self._values[""]
        (digest,) = own.pop("hash", (None,)) if (known := "hash" in own) else (None,)
        return StatusText(
            **own,
            module_hash=digest,
            has_code=digest is not None if known else None,
            settings=self._values["settings"],
            query_stats=self._values["query_stats"],
        )


def _of_lines(text: str) -> Iterator[StatusText]:
    facts = _Facts()
    for line in text.splitlines():
        heading = _HEADING.match(line) or _OLD.match(line)
        if heading:
            if (fact := facts.done()) != StatusText():
                yield fact
            facts = _Facts()
            facts.put_heading(**heading.groupdict())
        elif variable := _VARIABLE.match(line):
            facts.variables[variable["name"]] = variable["value"]
        elif pair := _LINE.match(line):
            _take(pair["key"].casefold(), pair["value"] or "", facts)
    if (fact := facts.done()) != StatusText():
        yield fact


def _take(key: str, value: str, facts: _Facts) -> None:
    setting = key.replace(" ", "_")
    if key in _READERS:
        _READERS[key](facts, value)
    elif key in _NUMBER_LINES:
        facts.put(_NUMBER_LINES[key], _number(value))
    elif key in _STAT_LINES:
        facts.put_stat(_STAT_LINES[key], _number(value))
    elif setting in _SETTINGS:
        facts.put_setting(setting, _number(value))
    elif key.endswith(" visibility"):
        facts.put_setting(setting, _visibility_of_text(value))
    elif key == "controller" or key.endswith(" viewer"):  # icp lists them line by line
        listed = _principal(value)
        if listed is not None:
            facts.listed.setdefault(key.removesuffix(" viewer"), []).append(listed)


_READERS: Final[Mapping[str, Callable[[_Facts, str], None]]] = {
    "status": lambda facts, value: facts.put("run_state", _run_state(value)),
    "controllers": lambda facts, value: facts.put("controllers", _principals(value.split()) if value else None),
    "module hash": lambda facts, value: facts.put_hash(value),
}


def _run_state(value: object) -> RunState | None:
    if not isinstance(value, str):
        return None
    return next((state for state in RunState if state.value == value.strip().casefold()), None)


def _number(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _NUMBER.fullmatch(value.strip()) if isinstance(value, str) else None
    return int(match["digits"].replace("_", "")) if match else None


def _principal(value: object) -> Principal | None:
    try:
        return Principal.parse(value) if isinstance(value, str) else None
    except BackupError:
        return None


def _principals(value: object) -> tuple[Principal, ...] | None:
    """Return them sorted, `None` when one is none: half a list of controllers would mislead."""
    if not isinstance(value, list):
        return None
    found = [_principal(item) for item in value]
    return tuple(sorted(item for item in found if item is not None)) if None not in found else None


def _visibility_of_object(value: object) -> object:
    if not isinstance(value, dict):
        return None
    kind = str(value.get("type"))
    if kind == "AllowedViewers":
        return _principals(value.get("value"))
    return kind.casefold() if kind in {"Public", "Controllers"} else None


def _visibility_of_text(value: str) -> object:
    word = value.casefold()
    if word in {"public", "controllers"}:
        return word
    if word == "allowed viewers list is empty":
        return ()
    _, colon, listed = value.partition(":")
    return _principals(re.split(r"[,\s]+", listed.strip())) if colon and word.startswith("allowed viewers") else None


def _variables(value: object) -> dict[str, str] | None:
    if not isinstance(value, list):
        return None
    found: dict[str, str] = {}
    for item in value:
        name, text = (item.get("name"), item.get("value")) if isinstance(item, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(text, str):
            return None
        found[name] = text
    return found
