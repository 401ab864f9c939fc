"""Registries of canisters: what they hold, refuse and answer, and the project files they are read from."""

import contextlib
import datetime as dt
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowtation_backup.errors import ConfigurationError
from knowtation_backup.model.ids import Principal
from knowtation_backup.snapshots import project_files
from knowtation_backup.snapshots.registry import CanisterEntry, CanisterRegistry, Criticality

HUB, LEDGER, THIRD = (str(Principal(number.to_bytes(8, "big") + b"\x01\x01")) for number in (1, 2, 3))
NOW = dt.datetime(2026, 11, 21, 2, 0, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


def kind_of(error: pytest.ExceptionInfo[ConfigurationError]) -> str:
    return error.value.kind


@pytest.fixture
def pair() -> CanisterRegistry:
    return CanisterRegistry.knowtation(hub=HUB, attestation=LEDGER)


def test_the_presets_are_those_of_the_documents(pair: CanisterRegistry) -> None:
    quri = CanisterRegistry.quri()
    assert [(entry.name, entry.criticality.value, entry.cadence.days) for entry in quri] == [
        ("rune-engine", "high", 1),
        ("registry", "high", 1),
        ("bitcoin-integration", "medium", 7),
        ("identity-manager", "medium", 7),
    ]
    assert quri.ids()[0] == "pkrpq-5qaaa-aaaah-aroda-cai"
    assert pair.names == ("hub", "attestation")
    assert CanisterRegistry.knowtation(hub=HUB).ids() == (HUB,)


def test_a_canister_is_found_by_name_and_by_id(pair: CanisterRegistry) -> None:
    assert pair["hub"] is pair[HUB] is pair[Principal.parse(HUB)]
    assert "hub" in pair
    assert THIRD not in pair
    with pytest.raises(ConfigurationError, match=r"no canister is called hubb .known are: hub, attestation") as caught:
        pair["hubb"]
    assert kind_of(caught) == "unknown_canister"


def test_a_selection_keeps_its_order_and_drops_blanks_and_repetitions(pair: CanisterRegistry) -> None:
    assert pair.select().names == ("hub", "attestation")
    assert pair.select(" attestation , hub,attestation,,").names == ("attestation", "hub")
    assert pair.select([LEDGER, " hub "]).names == ("attestation", "hub")
    assert pair.select([Principal.parse(HUB)]).names == ("hub",)


@pytest.mark.parametrize(
    ("wanted", "kind"),
    [("hub,bridge", "unknown_canister"), ("Hub", "unknown_canister"), (" , ", "no_canister_selected")],
)
def test_what_cannot_be_selected_is_refused(pair: CanisterRegistry, wanted: str, kind: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        pair.select(wanted)
    assert kind_of(caught) == kind


@pytest.mark.parametrize(
    "text",
    [f"hub={HUB},hub={LEDGER}", f"hub={HUB},HUB={LEDGER}", f"hub={HUB},other={HUB}", f"hub={HUB},{HUB}={LEDGER}"],
)
def test_names_and_ids_are_unique(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        CanisterRegistry.from_text(text)
    assert kind_of(caught) == "duplicate_canister"


@pytest.mark.parametrize("name", ["", ".", "../up", "a/b", "-rf", "a\nb", "é", "x" * 101, 7])
def test_a_name_is_safe_in_file_names(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        CanisterEntry(name=name, canister_id=HUB)
    assert kind_of(caught) == "bad_canister_name"


def test_options_of_an_entry_are_checked() -> None:
    with pytest.raises(ConfigurationError, match="positive timedelta"):
        CanisterEntry(name="hub", canister_id=HUB, own_cadence=dt.timedelta(0))
    with pytest.raises(ConfigurationError, match=r"Criticality\.HIGH"):
        CanisterEntry(name="hub", canister_id=HUB, criticality="high")  # type: ignore[arg-type] # the point
    with pytest.raises(ConfigurationError, match="not a principal"):
        CanisterEntry(name="hub", canister_id=HUB.upper())


def test_text_names_canisters_and_what_they_matter() -> None:
    registry = CanisterRegistry.from_text(f" hub={HUB}, ledger={LEDGER}:medium\nthird={THIRD}:low,")
    assert [(entry.name, entry.criticality) for entry in registry] == [
        ("hub", Criticality.HIGH),
        ("ledger", Criticality.MEDIUM),
        ("third", Criticality.LOW),
    ]
    assert CanisterRegistry.from_text(",".join(map(str, registry))) == registry


@pytest.mark.parametrize("text", ["", "hub", HUB, f"hub={HUB}:urgent", f"hub={HUB}:", "hub=", "x" * (5 << 20)])
def test_other_text_is_refused(text: str) -> None:
    if text == f"hub={HUB}:":
        assert len(CanisterRegistry.from_text(text)) == 1
        return
    with pytest.raises(ConfigurationError) as caught:
        CanisterRegistry.from_text(text)
    assert kind_of(caught) in {"bad_registry", "bad_principal"}


# Due.


def test_due_is_what_its_criticality_says() -> None:
    registry = CanisterRegistry.from_text(f"a={HUB}:low b={LEDGER}:medium c={THIRD}")
    ages = {"a": 29, "b": 8, "c": 2}
    last: dict[str, dt.datetime | None] = {name: NOW - days * DAY for name, days in ages.items()}
    assert [(item.entry.name, item.overdue) for item in registry.due(last, NOW)] == [("c", DAY), ("b", DAY)]
    last["a"] = None
    assert [item.entry.name for item in registry.due(last, NOW)] == ["c", "b", "a"]
    assert [item.last for item in registry.due({}, NOW)] == [None, None, None]


def test_a_daily_job_is_not_put_off_by_some_seconds(pair: CanisterRegistry) -> None:
    last = {"hub": NOW - DAY + dt.timedelta(seconds=40), LEDGER: NOW - DAY / 2}
    assert [item.entry.name for item in pair.due(last, NOW)] == ["hub"]
    assert pair.due(last, NOW, slack=dt.timedelta(0)) == ()


def test_a_backup_from_the_future_puts_nothing_off(pair: CanisterRegistry) -> None:
    (found,) = pair.due({"hub": NOW + 40 * DAY, "attestation": NOW}, NOW)
    assert (found.entry.name, found.overdue) == ("hub", None)


def test_what_was_never_backed_up_comes_before_what_is_late(pair: CanisterRegistry) -> None:
    assert [item.entry.name for item in pair.due({"hub": NOW - 9 * DAY}, NOW)] == ["attestation", "hub"]


def test_moments_need_a_time_zone(pair: CanisterRegistry) -> None:
    with pytest.raises(ConfigurationError, match="time zone"):
        pair.due({"hub": NOW.replace(tzinfo=None)}, NOW)


# JSON of our own.


def test_json_keeps_everything(tmp_path: Path) -> None:
    odd = CanisterEntry(name="x", canister_id=HUB, own_cadence=dt.timedelta(hours=6), network="local")
    registry = CanisterRegistry([odd, *CanisterRegistry.quri()])
    file = tmp_path / "canisters.json"
    file.write_bytes(registry.to_json())
    assert CanisterRegistry.from_json(file) == CanisterRegistry.from_json(registry.to_json()) == registry
    assert "x  " in str(registry)
    assert "every 6:00:00" in str(registry)
    assert "every day" in str(registry)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "else"},
        {"format_version": 2},
        {"canisters": None},
        {"canisters": [{}]},
        {"canisters": [3]},
        {"canisters": [{"name": "a", "id": HUB, "criticality": "urgent"}]},
        {"canisters": [{"name": "a", "id": HUB, "cadence_seconds": "x"}]},
        {"canisters": [{"name": "a", "id": HUB, "cadence_seconds": 1e300}]},
    ],
)
def test_a_damaged_registry_file_is_refused(change: dict[str, object]) -> None:
    value = json.loads(CanisterRegistry.quri().to_json()) | change
    with pytest.raises(ConfigurationError) as caught:
        CanisterRegistry.from_json(json.dumps(value).encode())
    assert kind_of(caught) == "bad_canister_file"


# Files of dfx.


def test_canister_ids_of_dfx_are_read_by_network(tmp_path: Path) -> None:
    ids = {"hub": {"ic": HUB, "local": THIRD}, "attestation": {"ic": LEDGER}, "__Candid_UI": {"local": LEDGER}}
    file = tmp_path / "canister_ids.json"
    file.write_text(json.dumps(ids))
    registry = CanisterRegistry.from_canister_ids(file, criticality={"attestation": Criticality.MEDIUM})
    assert [str(entry) for entry in registry] == [f"hub={HUB}:high", f"attestation={LEDGER}:medium"]
    local = CanisterRegistry.from_canister_ids(file, network="local", criticality=Criticality.LOW)
    assert local.names == ("hub",)
    assert local.unresolved == ("attestation",)
    assert {entry.network for entry in local} == {"local"}
    with pytest.raises(ConfigurationError, match="the project declares attestation, but no id"):
        local["attestation"]
    assert CanisterRegistry.from_project(tmp_path).names == ("hub", "attestation")


def test_a_dfx_project_takes_ids_from_all_its_files(tmp_path: Path) -> None:
    remote = {"type": "custom", "remote": {"id": {"ic": THIRD}}}
    (tmp_path / "dfx.json").write_text(json.dumps({"canisters": {"hub": {}, "far": remote, "new": {}}}))
    (tmp_path / "canister_ids.json").write_text(json.dumps({"hub": {"ic": HUB}}))
    local = tmp_path / ".dfx" / "local"
    local.mkdir(parents=True)
    (local / "canister_ids.json").write_text(json.dumps({"hub": {"local": LEDGER}}))
    registry = CanisterRegistry.from_project(tmp_path)
    assert (registry["hub"].canister_id, registry["far"].canister_id) == (Principal.parse(HUB), Principal.parse(THIRD))
    assert registry.unresolved == ("new",)
    assert CanisterRegistry.from_project(tmp_path, network="local").ids() == (LEDGER,)


# Files of icp.


def make_icp_project(directory: Path, manifest: str) -> None:
    (directory / "icp.yaml").write_text(manifest)
    for kind, name, canister_id in (("data", "ledger", LEDGER), ("cache", "hub", HUB), ("cache", "ledger", THIRD)):
        mappings = directory / ".icp" / kind / "mappings"
        mappings.mkdir(parents=True, exist_ok=True)
        file = mappings / "ic.ids.json"
        known = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(known | {name: canister_id}))
    folder = directory / "canisters" / "second"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "canister.yaml").write_text("name: ledger\n")
    (directory / "canisters" / "no-canister").mkdir(exist_ok=True)


def test_an_icp_project_takes_names_from_manifests_and_ids_from_mappings(tmp_path: Path) -> None:
    make_icp_project(tmp_path, "canisters:\n- name: hub\n  build: {steps: []}\n- canisters/*\n- name: new\n")
    registry = CanisterRegistry.from_project(tmp_path)
    assert [(entry.name, str(entry.canister_id)) for entry in registry] == [("hub", HUB), ("ledger", LEDGER)]
    assert registry.unresolved == ("new",)


def test_an_environment_of_icp_may_name_its_canisters(tmp_path: Path) -> None:
    head = "canisters: [{name: hub}, canisters/second]\nenvironments:\n- name: ic\n"
    make_icp_project(tmp_path, head + "  canisters: [ledger]\n")
    assert CanisterRegistry.from_project(tmp_path).names == ("ledger",)
    make_icp_project(tmp_path, head)
    assert CanisterRegistry.from_project(tmp_path).names == ("hub", "ledger")
    assert CanisterRegistry.from_project(tmp_path, network="staging").unresolved == ("hub", "ledger")


def test_a_mapping_of_icp_is_read_alone_without_a_yaml_parser(tmp_path: Path) -> None:
    make_icp_project(tmp_path, "")
    file = tmp_path / ".icp" / "data" / "mappings" / "ic.ids.json"
    assert CanisterRegistry.from_canister_ids(file).names == ("ledger",)


def test_without_the_parser_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_icp_project(tmp_path, "canisters: []")
    monkeypatch.setitem(__import__("sys").modules, "yaml", None)
    with pytest.raises(ConfigurationError, match=r"knowtation-backup\[yaml\]") as caught:
        CanisterRegistry.from_project(tmp_path)
    assert kind_of(caught) == "missing_extra"


BOMB = "a: &a {k: v}\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} {{<<: [{', '.join([f'*{chr(97 + n)}'] * 9)}]}}\n" for n in range(20)
)


@pytest.mark.parametrize(
    "manifest",
    [
        "canisters: [a, {",
        "canisters: [7: ]:",
        "canisters: [/etc]",
        "canisters: [../other]",
        "canisters: [a/../../b]",
        "canisters: [{}]",
        "canisters: [{name: [x]}]",
        "canisters: [{name: hub}, {name: hub}]",
        "canisters: [{name: hub}]\n---\n- second document",
        "[" * 100_000,
        "\x00",
        "canisters: [broken]",
        " " * (257 << 10),
    ],
)
def test_a_bad_icp_manifest_is_refused(tmp_path: Path, manifest: str) -> None:
    make_icp_project(tmp_path, manifest)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "canister.yaml").write_text("title: x")
    with pytest.raises(ConfigurationError) as caught:
        CanisterRegistry.from_project(tmp_path)
    assert kind_of(caught) == "bad_canister_file"


@pytest.mark.parametrize("head", [BOMB, "canister: !!python/object/apply:os.abort []\n", "canisters: null\n"])
def test_tags_and_merges_of_a_manifest_do_nothing(tmp_path: Path, head: str) -> None:
    make_icp_project(tmp_path, head + ("" if "canisters" in head else "canisters: [{name: hub}]\n"))
    assert CanisterRegistry.from_project(tmp_path).names == (() if "canisters" in head else ("hub",))


# Hostile files.


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'"x"',
        b"{",
        b"[" * 200_000,
        b'{"a": {"ic": 7}}',
        b'{"a": ["x"]',
        f'{{"a": {{"ic": "{HUB}"}}, "a": {{"ic": "{LEDGER}"}}}}'.encode(),
        b" " * (project_files.MAX_FILE_BYTES + 1),
        b'{"a": {"ic": "' + b"\xff" + b'"}}',
    ],
)
def test_a_bad_file_of_ids_is_refused(content: bytes) -> None:
    with pytest.raises(ConfigurationError) as caught:
        CanisterRegistry.from_canister_ids(content)
    assert kind_of(caught) == "bad_canister_file"


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for file in (tmp_path / "pipe", tmp_path, tmp_path / "absent", Path("/dev/zero")):
        with pytest.raises(ConfigurationError) as caught:
            CanisterRegistry.from_canister_ids(file)
        assert kind_of(caught) == "bad_canister_file"
    with pytest.raises(ConfigurationError, match=r"neither icp.yaml, dfx.json nor canister_ids.json"):
        CanisterRegistry.from_project(tmp_path)
    for network in ("", "../up", "."):
        with pytest.raises(ConfigurationError, match="not the name of a network"):
            CanisterRegistry.from_project(tmp_path, network=network)


def test_too_many_canisters_are_refused() -> None:
    entries = (CanisterEntry(name=f"c{n}", canister_id=n.to_bytes(10, "big")) for n in range(10_001))
    with pytest.raises(ConfigurationError, match="10001 canisters are more than"):
        CanisterRegistry(entries)


@settings(deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(st.none() | st.text(), lambda inner: st.dictionaries(st.text(), inner)).map(
            lambda value: json.dumps(value).encode()
        ),
    )
)
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    for read in (CanisterRegistry.from_canister_ids, CanisterRegistry.from_json):
        with contextlib.suppress(ConfigurationError):
            assert len(read(content)) < 200
