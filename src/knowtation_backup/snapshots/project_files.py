"""
The files in which ``dfx`` and ``icp`` keep the names and ids of a project's canisters.

=======================================  ===============================================================
file                                     what it holds
=======================================  ===============================================================
``canister_ids.json``                    dfx: ``{name: {network: id}}``, networks that last
``.dfx/<network>/canister_ids.json``     dfx: the same, local networks
``dfx.json``                             ``canisters.<name>.remote.id.<network>``
``icp.yaml``                             icp: ``canisters``, inline or paths of folders with ``canister.yaml``
``.icp/data/mappings/<env>.ids.json``    icp: ``{name: id}``, connected networks
``.icp/cache/mappings/<env>.ids.json``   icp: the same, networks icp started itself
=======================================  ===============================================================

They may be anybody's: sizes are bounded, names that repeat are refused, and YAML is only composed, never constructed,
so that neither tags nor merge keys do anything.
"""

from __future__ import annotations

import collections
import contextlib
import importlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

from ..errors import ConfigurationError
from ..model.json_input import check_nesting

__all__ = ["MAX_FILE_BYTES", "bad_file", "load_json", "name_of", "read_ids", "read_project", "read_small"]

MAX_FILE_BYTES: Final = 4 << 20
"""Larger files of ids, or registries, are refused."""
MAX_YAML_BYTES: Final = 256 << 10
"""Larger manifests of icp are refused; the parser reads some hundred kilobytes a second."""
MAX_MANIFESTS: Final = 1_000
"""Folders with a ``canister.yaml`` that one ``icp.yaml`` may name."""

_NO_LOCAL: Final = "__Candid_UI"
"""dfx installs this beside the canisters of local projects; it is nobody's."""

Ids = dict[str, str | None]
"""Name to id, `None` when it has none on the network asked for."""


def bad_file(where: str, why: str) -> ConfigurationError:
    """Return the error for a file that cannot be used."""
    return ConfigurationError(
        f"{where} cannot be read: {why}", kind="bad_canister_file", hint="check the path and what wrote the file"
    )


def name_of(file: str | Path | bytes) -> str:
    """Return how messages call the file."""
    return "the text" if isinstance(file, bytes) else Path(file).name


def load_json(file: str | Path | bytes) -> Any:
    """Return the JSON value of a small file; raises `ConfigurationError` (``bad_canister_file``)."""
    where = name_of(file)
    data = read_small(file, MAX_FILE_BYTES)
    try:
        check_nesting(data)
        return json.loads(data, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        if isinstance(error, _RepeatedNameError):
            raise bad_file(where, str(error)) from error
        raise bad_file(where, "it is not JSON") from error


def read_ids(file: str | Path | bytes, network: str) -> Ids:
    """
    Return the ids of a ``canister_ids.json`` for one network, or of an icp mapping.

    Raises:
        ConfigurationError: The file cannot be read, or has another form (``bad_canister_file``).
    """
    where, value = name_of(file), load_json(file)
    if not isinstance(value, dict):
        raise bad_file(where, "it is not a JSON object of names")
    found: Ids = {}
    for name, item in value.items():
        if name == _NO_LOCAL:
            continue
        chosen = item.get(network) if isinstance(item, dict) else item
        if chosen is not None and not isinstance(chosen, str):
            raise bad_file(where, f"the id of {name!r:.80} is not text")
        found[name] = None if chosen is None else chosen.strip()
    return found


def read_project(directory: Path, network: str) -> Ids:
    """
    Return names and ids of a project of ``icp`` or ``dfx``.

    Raises:
        ConfigurationError: None of their files is there, or one cannot be read (``bad_canister_file``), or the parser
            is not installed (``missing_extra``).
    """
    if not network or "/" in network or network.startswith("."):
        raise ConfigurationError(f"{network!r:.80} is not the name of a network", kind="bad_registry")
    if (directory / "icp.yaml").exists():
        return _of_icp(directory, network)
    if (directory / "dfx.json").exists():
        return _of_dfx(directory, network)
    if (directory / "canister_ids.json").exists():
        return read_ids(directory / "canister_ids.json", network)
    raise bad_file(directory.name or "the directory", "it holds neither icp.yaml, dfx.json nor canister_ids.json")


def _of_dfx(directory: Path, network: str) -> Ids:
    value = load_json(directory / "dfx.json")
    declared = value.get("canisters") if isinstance(value, dict) else None
    if declared is not None and not isinstance(declared, dict):
        raise bad_file("dfx.json", "canisters is not an object")
    found: Ids = dict.fromkeys(declared or ())
    for file in (directory / "canister_ids.json", directory / ".dfx" / network / "canister_ids.json"):
        if file.exists():
            ids = read_ids(file, network)
            found.update({name: canister_id for name, canister_id in ids.items() if canister_id is not None})
    for name, item in (declared or {}).items():
        with contextlib.suppress(KeyError, TypeError, AttributeError):
            remote = item["remote"]["id"][network]
            if isinstance(remote, str):
                found[name] = remote.strip()  # dfx prefers it, too: the canister is somebody else's there
    return found


def _of_icp(directory: Path, environment: str) -> Ids:
    root = _compose(directory / "icp.yaml")
    names = list(_declared(root, directory))
    if len(set(names)) != len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise bad_file("icp.yaml", f"canister {repeated!r:.80} is declared twice")
    chosen = _selection(root, environment)
    if chosen is not None:
        names = [name for name in names if name in chosen]
    ids: Ids = {}
    for kind in ("cache", "data"):  # what is on a network that lasts wins
        file = directory / ".icp" / kind / "mappings" / f"{environment}.ids.json"
        if file.exists():
            ids.update(read_ids(file, environment))
    return {name: ids.get(name) for name in names}


def _declared(root: Any, directory: Path) -> Iterator[str]:
    for item in _sequence(_field(root, "canisters")):
        name = _text(_field(item, "name"))
        if name is not None:
            yield name
        elif (pattern := _text(item)) is not None:
            yield from _names_below(directory, pattern)
        else:
            raise bad_file("icp.yaml", "a canister is neither a path nor has a name")


def _names_below(directory: Path, pattern: str) -> Iterator[str]:
    """Yield the names in the ``canister.yaml`` of every folder that a path of ``icp.yaml`` matches."""
    path = PurePosixPath(pattern)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise bad_file("icp.yaml", f"the path {pattern!r:.80} leads outside the project")
    try:
        folders = sorted(place for place in directory.glob(str(path)) if (place / "canister.yaml").is_file())
    except (ValueError, NotImplementedError, OSError) as error:
        raise bad_file("icp.yaml", f"the path {pattern!r:.80} cannot be searched") from error
    if len(folders) > MAX_MANIFESTS:
        raise bad_file("icp.yaml", f"{pattern!r:.80} matches more than {MAX_MANIFESTS} folders")
    for folder in folders:
        name = _text(_field(_compose(folder / "canister.yaml"), "name"))
        if name is None:
            raise bad_file("canister.yaml", f"the one in {folder.name!r:.80} has no name")
        yield name


def _selection(root: Any, environment: str) -> set[str] | None:
    """Return the canisters an environment is limited to, `None` for all."""
    for item in _sequence(_field(root, "environments")):
        if _text(_field(item, "name")) == environment:
            listed = _field(item, "canisters")
            return None if listed is None else {name for node in _sequence(listed) if (name := _text(node))}
    return None


# YAML: nodes as the parser composes them, before anything is made of their tags.


def _compose(file: Path) -> Any:
    try:
        yaml = importlib.import_module("yaml")
    except ImportError as error:
        message = f"reading {file.name} needs the package PyYAML"
        hint = "install knowtation-backup[yaml], or read the mapping in .icp with from_canister_ids()"
        raise ConfigurationError(message, kind="missing_extra", hint=hint) from error
    data = read_small(file, MAX_YAML_BYTES)
    try:
        return yaml.compose(data.decode("utf-8"), Loader=yaml.SafeLoader)  # the pure one: its depth is bounded
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise bad_file(file.name, "it is not YAML") from error


def _field(node: Any, key: str) -> Any:
    """Return the value node of a mapping node, `None` when there is no such key or it is no mapping."""
    if getattr(node, "id", None) != "mapping":
        return None
    return next((value for name, value in node.value if _text(name) == key), None)


def _sequence(node: Any) -> list[Any]:
    return list(node.value) if getattr(node, "id", None) == "sequence" else []


def _text(node: Any) -> str | None:
    return str(node.value) if getattr(node, "id", None) == "scalar" else None


# Bytes.


class _RepeatedNameError(ValueError):
    """A JSON object has a key twice; a plain reader would keep the last and say nothing."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        repeated, _ = collections.Counter(name for name, _ in pairs).most_common(1)[0]
        message = f"{repeated!r:.80} appears twice"
        raise _RepeatedNameError(message)
    return found


def read_small(file: str | Path | bytes, limit_bytes: int) -> bytes:
    """Return the bytes of a regular file; raises `ConfigurationError` (``bad_canister_file``)."""
    where = name_of(file)
    if isinstance(file, bytes):
        data = file
    else:
        try:
            fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not be waited for
            with os.fdopen(fd, "rb") as opened:
                if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                    raise bad_file(where, "it is not a regular file")
                data = opened.read(limit_bytes + 1)
        except OSError as error:
            raise bad_file(where, error.strerror or type(error).__name__) from error
    if len(data) > limit_bytes:
        raise bad_file(where, f"it is larger than {limit_bytes} bytes")
    return data
