"""What an options class refuses is a `ConfigurationError` that names option, value and bound."""

import importlib
import math
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

import knowtation_backup
from knowtation_backup import ExportOptions, KeepLast
from knowtation_backup._checks import above, at_least, between, one_of, optional
from knowtation_backup._engine.retrying import RetryPolicy
from knowtation_backup.errors import ConfigurationError
from knowtation_backup.exports.attestations import LedgerPrefix
from knowtation_backup.exports.github import FolderLimits
from knowtation_backup.exports.reader import ReadLimits
from knowtation_backup.exports.unwrap import UnwrapLimits
from knowtation_backup.hub.limits import HubLimits, HubTimeouts
from knowtation_backup.model.reports import Sample
from knowtation_backup.operations.backup import BackupOptions
from knowtation_backup.operations.rewrap import RewrapOptions
from knowtation_backup.sandbox import Delay, ManagementOptions, Truncate
from knowtation_backup.sandbox.hub import SeedPlan


def _classes() -> Iterator[type]:
    for info in pkgutil.walk_packages(knowtation_backup.__path__, "knowtation_backup."):
        module = importlib.import_module(info.name)
        for value in vars(module).values():
            if isinstance(value, type) and attrs.has(value) and value.__module__ == info.name:
                yield value


@pytest.mark.parametrize(
    ("make", "option", "bound"),
    [
        (lambda: ExportOptions(concurrency=0), "ExportOptions.concurrency is 0", "from 1 to 256"),
        (lambda: ExportOptions(concurrency=257), "ExportOptions.concurrency is 257", "from 1 to 256"),
        (lambda: ExportOptions(on_error="ignore"), "ExportOptions.on_error is 'ignore'", "'fail', 'continue'"),  # type: ignore[arg-type] # the point
        (lambda: ExportOptions(payload="all"), "ExportOptions.payload is 'all'", "'full', 'records'"),  # type: ignore[arg-type] # the point
        (lambda: ExportOptions(retry_budget=-1), "ExportOptions.retry_budget is -1", "at least 0"),
        (lambda: RetryPolicy(attempts=0), "RetryPolicy.attempts is 0", "at least 1"),
        (lambda: RetryPolicy(multiplier=math.nan), "RetryPolicy.multiplier is nan", "at least 1"),
        (lambda: HubTimeouts(read_seconds=0), "HubTimeouts.read_seconds is 0", "above 0"),
        (lambda: HubLimits(reply_bytes=0), "HubLimits.reply_bytes is 0", "above 0"),
        (lambda: HubLimits(reply_bytes="4 MiB"), "HubLimits.reply_bytes is '4 MiB'", "above 0"),  # type: ignore[arg-type] # the point
        (lambda: ReadLimits(element_bytes=0), "ReadLimits.element_bytes is 0", "at least 1"),
        (lambda: UnwrapLimits(ratio=0), "UnwrapLimits.ratio is 0", "at least 1"),
        (lambda: FolderLimits(depth=0), "FolderLimits.depth is 0", "at least 1"),
        (lambda: LedgerPrefix(records=-1, sha256=""), "LedgerPrefix.records is -1", "at least 0"),
        (lambda: SeedPlan(vaults=0), "SeedPlan.vaults is 0", "at least 1"),
        (lambda: Delay(-1), "Delay.seconds is -1", "at least 0"),
        (lambda: Truncate(keep=1), "Truncate.keep is 1", "to below 1"),
        (lambda: BackupOptions(read_back="content"), "BackupOptions.read_back is 'content'", "ReadBack.CONTENT"),  # type: ignore[arg-type] # the point
        (lambda: RewrapOptions(read_back="content"), "RewrapOptions.read_back is 'content'", "ReadBack.CONTENT"),  # type: ignore[arg-type] # the point
        (lambda: Sample(part=0, of=2), "Sample.part is 0", "at least 1"),
        (lambda: Sample(part="1", of=2), "Sample.part is '1'", "a whole number"),  # type: ignore[arg-type] # the point
        (lambda: Sample(part=1, of=2.5), "Sample.of is 2.5", "a whole number"),  # type: ignore[arg-type] # the point
        (lambda: Sample(part=True, of=2), "Sample.part is True", "a whole number"),
        (lambda: ManagementOptions(heap_delta_limit_bytes=0), "ManagementOptions.heap_delta_limit_bytes", "above 0"),
    ],
)
def test_options_name_what_is_wrong(make: Callable[[], object], option: str, bound: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert caught.value.kind == "bad_option"
    assert option in caught.value.message
    assert bound in caught.value.hint
    assert option.startswith(caught.value.context["option"])


def test_keeping_a_negative_number_of_archives_has_a_kind_of_its_own() -> None:
    with pytest.raises(ConfigurationError) as caught:
        KeepLast(limit=-1)
    assert caught.value.kind == "bad_limit"


def test_no_class_validates_with_what_raises_a_plain_value_error() -> None:
    validated = {
        f"{cls.__name__}.{field.name}": field.validator
        for cls in _classes()
        for field in attrs.fields(cls)
        if field.validator is not None
    }
    assert "ExportOptions.concurrency" in validated
    assert "Rule.probability" in validated
    foreign = {
        name
        for name, check in validated.items()
        for each in getattr(check, "_validators", (check,))  # of several, attrs makes one
        if type(each).__module__.startswith("attr")
    }
    assert foreign == set()


@pytest.mark.parametrize(
    ("check", "accepted", "refused"),
    [
        (at_least(1), [1, 1.5, math.inf], [0.99, True, "1", None, math.nan]),
        (above(0), [0.1], [0, False]),
        (between(0, 1), [0, 1], [-0.1, 1.1]),
        (between(0, 1, below=True), [0, 0.99], [1]),
        (one_of("a", "b"), ["a", "b"], ["c", None, ["a"]]),
        (optional(at_least(1)), [None, 1], [0]),
    ],
)
def test_bounds(check: Callable[[Any, Any, Any], None], accepted: list[object], refused: list[object]) -> None:
    field = attrs.fields(KeepLast).limit
    for value in accepted:
        check(KeepLast(), field, value)
    for value in refused:
        with pytest.raises(ConfigurationError):
            check(KeepLast(), field, value)


def test_a_long_value_is_cut() -> None:
    with pytest.raises(ConfigurationError) as caught:
        ExportOptions(on_error="x" * 10_000)  # type: ignore[arg-type] # the point
    assert len(str(caught.value)) < 250
