"""What operators pass to snapshot operations: ids in any form, confirmations, budgets, signals."""

from __future__ import annotations

import datetime as dt
import os
import signal
from collections.abc import Callable
from typing import Any

import ic.principal
import pytest

from knowtation_backup.errors import ConfigurationError
from knowtation_backup.model.ids import Principal
from knowtation_backup.snapshots.requests import ids_of, require_confirmed, seconds_of, terminating_signals

TEXT = "rrkah-fqaaa-aaaaa-aaaaq-cai"
ID = Principal.parse(TEXT)
OTHER = Principal.parse("ryjl3-tyaaa-aaaaa-aaaba-cai")


@pytest.mark.parametrize(
    "given",
    [ID, TEXT, f" {TEXT}\n", ID.raw, ic.principal.Principal.from_str(TEXT), [TEXT, ID], (ID,), iter([ID])],
    ids=["principal", "text", "blanks", "bytes", "ic-py", "list", "tuple", "iterator"],
)
def test_one_canister_may_be_named_in_any_form(given: Any) -> None:
    assert ids_of(given) == (ID,)


@pytest.mark.parametrize("given", [None, True, 5, "", "yes", [], [None], b"x" * 30], ids=repr)
def test_what_names_no_canister_is_refused_by_our_own_error(given: Any) -> None:
    with pytest.raises(ConfigurationError):
        ids_of(given)


@pytest.mark.parametrize("given", [None, True, "yes", "", [], OTHER, [ID, OTHER]], ids=repr)
def test_nothing_but_the_ids_themselves_confirms(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="not confirmed") as caught:
        require_confirmed((ID,), given)
    assert caught.value.kind == "not_confirmed"
    assert TEXT in caught.value.hint


@pytest.mark.parametrize("given", [5, 0.5, "5", dt.timedelta(0), dt.timedelta(seconds=-1)], ids=repr)
def test_a_budget_is_a_positive_timedelta(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_downtime") as caught:
        seconds_of(given)
    assert caught.value.kind == "bad_option"


class _Destroyed:
    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work

    def __del__(self) -> None:
        self._work()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_python_drops_ends_the_block_all_the_same() -> None:
    done = []

    def work() -> None:
        with terminating_signals():
            _Destroyed(lambda: os.kill(os.getpid(), signal.SIGTERM))
            done.append("went on")

    with pytest.raises(SystemExit) as caught:
        work()
    assert done == ["went on"]
    assert caught.value.code == 128 + signal.SIGTERM
