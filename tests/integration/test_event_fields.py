"""A run that meets nearly every event: each has exactly the fields the reference lists."""

import datetime as dt
import re
from pathlib import Path

import pytest

from knowtation_backup import (
    BackupOptions,
    Event,
    ExportOptions,
    HubClient,
    KeepLast,
    MemorySink,
    OperatorExporter,
    Pipeline,
    PreviousArchive,
    ReadBack,
)
from knowtation_backup.errors import SinkFullError
from knowtation_backup.operations.trash import plan_empty_trash
from knowtation_backup.sandbox import Answer, SandboxNetwork
from knowtation_backup.sandbox.hub import SandboxHub, SeedPlan, seed
from knowtation_backup.testing.faults import FaultSink

pytestmark = pytest.mark.sandbox

PAGE = (Path(__file__).parent.parent.parent / "docs" / "reference" / "events.md").read_text()
ROW = re.compile(r"^\| `(?P<name>[a-z_]+\.[a-z_]+)` \| (?P<fields>[^|]*) \|", re.MULTILINE)
KEY = "an operator key, long and random"


def test_told_fields_are_those_of_the_reference() -> None:
    told: list[Event] = []
    sink = MemorySink()
    moments = [dt.datetime(2026, 4, day, tzinfo=dt.UTC) for day in (1, 2, 3, 4)]
    with SandboxNetwork() as network:
        hub = SandboxHub.deploy(network, operator_key=KEY)
        planted = seed(hub, SeedPlan(tenants=2, notes=1, proposals=1))
        client = HubClient(hub.base_url(), operator_key=KEY, transport=network.transport(), sleep=lambda _seconds: None)

        def pipeline(day: int, options: ExportOptions) -> Pipeline:
            return Pipeline(
                source=OperatorExporter(client, options),
                sink=sink,
                options=BackupOptions(read_back=ReadBack.CONTENT),
                retention=KeepLast(limit=1),
                observer=told.append,
                clock=lambda: moments[day],
            )

        network.faults.add(Answer(status=503), headers={"x-user-id": planted.user_ids[0]})
        first = pipeline(0, ExportOptions(on_error="continue"))
        incomplete = first.backup().archive_id
        network.faults.clear()
        previous = PreviousArchive(first.details(incomplete).capture, lambda: first.read(incomplete))
        last = pipeline(1, ExportOptions(previous=previous))
        last.backup()
        full = FaultSink(MemorySink(), fail_at=2, error=lambda _operation: SinkFullError("full"))
        with pytest.raises(SinkFullError):
            Pipeline(source=OperatorExporter(client), sink=full, observer=told.append).backup()
    sink.delete(f"side/{incomplete}/details.json")
    assert not last.verify(incomplete).ok
    last.apply(last.plan_forget())
    last.apply(plan_empty_trash(sink, now=moments[3], grace=dt.timedelta(0)))

    documented: dict[str, list[set[str]]] = {}
    for match in ROW.finditer(PAGE):
        documented.setdefault(match["name"], []).append(set(re.findall(r"`([a-z_]+)`", match["fields"])))
    # Told for mainnet's hosts only, and by the client of another canister.
    assert {event.name for event in told} == documented.keys() - {"hub.raw_host", "ic.retry"}
    assert [event for event in told if set(event.fields) not in documented[event.name]] == []
