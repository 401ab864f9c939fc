"""Single vaults of different tenants never share a series, and the manifest does not name the tenant."""

import datetime as dt
import itertools

import httpx

from knowtation_backup import HubClient, KeepLast, MemorySink, Pipeline, VaultExporter

URL = "https://rrkah-fqaaa-aaaaa-aaaaq-cai.raw.icp0.io"


def _answer(request: httpx.Request) -> httpx.Response:
    key = "notes" if request.url.path.endswith("/export") else "proposals"
    return httpx.Response(200, json={key: []})


def test_retention_never_drops_one_tenant_for_another() -> None:
    sink = MemorySink()
    day = dt.datetime(2026, 4, 8, tzinfo=dt.UTC)
    with HubClient(URL, transport=httpx.MockTransport(_answer)) as hub:
        tenants = [("google:1", "default"), ("google:2", "default"), ("google:1", "work"), ("google:1", "work")]
        for number, (user_id, vault_id) in enumerate(tenants):
            source = VaultExporter(hub, user_id=user_id, vault_id=vault_id)
            Pipeline(
                source=source, sink=sink, clock=itertools.repeat(day + dt.timedelta(hours=number)).__next__
            ).backup()
    pipeline = Pipeline(sink=sink, retention=KeepLast(limit=1), clock=lambda: day + dt.timedelta(days=1))
    plan = pipeline.plan_forget()
    assert [info.archive_id for info in plan.forgotten] == ["canister-export-work-20260408T020000Z.json"]
    assert len({info.series for info in plan.kept}) == 3
    clear = b"".join(
        content for key, content in sink.contents().items() if key.endswith(("manifest.json", "started.json"))
    )
    assert clear
    assert b"google" not in clear
