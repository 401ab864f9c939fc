"""Fixed limits on the reference page are those of the source; defaults are asserted by the page itself."""

from pathlib import Path

import pytest

from knowtation_backup import _transport
from knowtation_backup._engine import canonical
from knowtation_backup._engine.retrying import RetryPolicy
from knowtation_backup.codecs import _key_files, _ktb2_header, _ktb2_payload, _slots, _xz, _zstd, age, keys, ktb1, ktb2
from knowtation_backup.exports import attestations, book, hub_secrets, names, options, reader
from knowtation_backup.hub import limits as hub_limits
from knowtation_backup.ic import agent as ic_agent
from knowtation_backup.ic import calls as ic_calls
from knowtation_backup.ic import candid_values, certificate
from knowtation_backup.ic import limits as ic_limits
from knowtation_backup.ic import link as ic_link
from knowtation_backup.model import marks
from knowtation_backup.operations import catalog, describing, writing
from knowtation_backup.operations import read as reading
from knowtation_backup.repository import access, frames, recordsets, storing
from knowtation_backup.repository import keys as repository_keys
from knowtation_backup.retention import common as retention
from knowtation_backup.sandbox import request_log
from knowtation_backup.sandbox.execution import ic0_messages, stable, wasm_module
from knowtation_backup.sandbox.execution import message as execution
from knowtation_backup.sandbox.management import install, snapshot_data, snapshots
from knowtation_backup.sandbox.protocol import gateway, http_api, ingress
from knowtation_backup.sandbox.replica import queries, replica
from knowtation_backup.snapshots import facts, project_files, registry, status_text

PAGE = (Path(__file__).parent.parent.parent / "docs" / "reference" / "limits.md").read_text()
MIB = 1 << 20
POLICY = RetryPolicy()
AGENT = ic_limits.AgentTimeouts()
INSTRUCTIONS = execution.InstructionLimits()


@pytest.mark.parametrize(
    ("value", "figure", "row"),
    [
        (hub_limits.QUERY_REPLY_LIMIT_BYTES, 3 * MIB, "| reply to a query | 3 MiB |"),
        (POLICY.attempts, 5, "| attempts per request | 5 |"),
        ((POLICY.first_delay_seconds, POLICY.multiplier, POLICY.max_delay_seconds), (0.5, 2, 30), "at most 30 s"),
        (POLICY.max_retry_after_seconds, 120, "may ask for | 120 s |"),
        (_transport._EXCERPT_CHARACTERS, 200, "| 200 characters |"),
        (attestations._PAGE, 100, "| attestation ledger: records per page | 100 |"),
        (hub_secrets.MIN_SECRET_CHARACTERS, 32, "| at least 32 characters |"),
        (ic_link._EXPIRY_NS, 240 * 10**9, "| life of a signed request | 240 s |"),
        ((AGENT.call_seconds, AGENT.query_seconds), (360, 120), "| 360 s; 120 s |"),
        ((AGENT.attempt_seconds, AGENT.read_seconds, AGENT.connect_seconds), (120, 60, 10), "| 120 s; 60 s; 10 s |"),
        (ic_agent._ATTEMPTS, 8, "| failures in a row of one request | 8 |"),
        ((AGENT.first_poll_seconds, ic_calls._POLL_GROWTH, AGENT.max_poll_seconds), (0.5, 1.4, 2), "at most 2 s |"),
        (ic_limits.AgentLimits().reply_bytes, 5 * MIB, "| one answer | 5 MiB |"),
        (
            (
                candid_values.MAX_MESSAGE_BYTES,
                candid_values._MAX_STEPS,
                candid_values._MAX_DEPTH,
                candid_values._MAX_NUMBER_BYTES,
            ),
            (4 * MIB, 1_048_576, 64, 64),
            "| 4 MiB, 1,048,576, 64 levels, 64 bytes |",
        ),
        (certificate.MAX_AGE.total_seconds(), 300, "| 5 minutes |"),
        (ic_limits.AgentLimits().key_cache_seconds, 300, "are used for | 300 s |"),
        (options._MAX_VAULT_CHARACTERS, 64, "| vault id | 64 characters"),
        ((project_files.MAX_FILE_BYTES, registry._MAX_CANISTERS), (4 * MIB, 10_000), "| 4 MiB, 10,000 canisters |"),
        ((facts.MAX_FACTS_BYTES, status_text.MAX_TEXT_BYTES), (64 * MIB, 4 * MIB), "| 64 MiB; 4 MiB |"),
        ((project_files.MAX_YAML_BYTES, project_files.MAX_MANIFESTS), (MIB // 4, 1_000), "| 256 KiB each, 1,000"),
        (book._MAX_FINDINGS, 1_000, "| warnings in a report | 1,000;"),
        (book._MAX_FAILURES, 10_000, "| failures and remarks in details | 10,000 each;"),
        (canonical.MAX_DEPTH, 200, "| 200 levels |"),
        (
            (_zstd.MAX_WINDOW_BYTES, _xz.MAX_MEMORY_BYTES),
            (128 * MIB, 129 * MIB),
            "| zstd window, xz dictionary | 128 MiB |",
        ),
        (reader._MAX_FINDINGS, 1_000, "| findings of a reader | 1,000 |"),
        (ktb1.MAX_PLAINTEXT_BYTES, (64 << 30) - 32, "| one KTB1 file | 64 GiB "),
        (age._MAX_HEADER_BYTES, 256 << 10, "| header of an age file | 256 KiB |"),
        (
            (_ktb2_payload.MAX_CHUNKS, ktb2.DEFAULT_CHUNK_BYTES),
            (1 << 32, 256 << 10),
            "| 2³² chunks: 1 PiB at the default of 256 KiB;",
        ),
        ((_ktb2_header.MIN_EXPONENT, _ktb2_header.MAX_EXPONENT), (12, 24), "`chunk_bytes` may be 4 KiB to 16 MiB |"),
        (
            (_ktb2_header.MAX_SLOTS, _slots.MAX_PASSPHRASE_SLOTS, _ktb2_header.MAX_SLOTS_BYTES),
            (64, 4, 256 << 10),
            "| 64, of them 4 passphrases; 256 KiB of slots |",
        ),
        ((access.MAX_ACCESS_FILES, access.MAX_ACCESS_BYTES), (1_000, MIB), "| 1,000 are looked at, 1 MiB each |"),
        (access.MAX_PASSPHRASE_WORK_KIB, 64 << 20, "iterations of Argon2id over all access files, the cheapest first"),
        (recordsets._MAX_VALUE_BYTES, 7 * MIB // 2, "| one record of a repository | 3.5 MiB |"),
        (
            (frames.MAX_CONTENT_BYTES, frames.MAX_FILE_BYTES),
            (4 * MIB, 64 * MIB),
            "of an index or manifest | 4 MiB; 64 MiB |",
        ),
        (storing.MAX_OBJECT_BYTES, 64 * MIB, "| stored bytes of one object of a repository | 64 MiB;"),
        (repository_keys.MAX_GENERATION, 65_535, "| generations of a repository key | 65,535 |"),
        ((_slots._MIN_MEMORY_KIB, _slots._MIN_ITERATIONS), (19 << 10, 2), "| at least 19 MiB and 2 iterations;"),
        (
            (_slots._MAX_MEMORY_KIB, _slots._MAX_ITERATIONS, _slots._MAX_LANES, _slots._MAX_WORK_KIB),
            (1 << 20, 64, 16, 4 << 20),
            "at most 1 GiB, 64 iterations, 16 lanes, and 4 GiB for memory ",
        ),
        ((keys._PASSPHRASE_CHARACTERS, _key_files._MAX_FILE_BYTES), (4096, 64 << 10), "| 4,096 characters; 64 KiB |"),
        (writing._MAX_NUMBER, 999, "| archives of one name in one second | 1,000 |"),
        (reading.MAX_MANIFEST_BYTES, 4 * MIB, "| manifest | 4 MiB |"),
        (reading.MAX_DETAILS_BYTES, 512 * MIB, "| details | 512 MiB;"),
        (describing.MAX_STARTED_BYTES, 64 << 10, "| `started.json` | 64 KiB |"),
        (marks.MAX_MARK_BYTES, 64 << 10, "| mark | 64 KiB |"),
        (catalog.LIST_CONCURRENCY, 16, "| reads at once while listing | 16 |"),
        ((names._SEGMENT_BYTES, names._PATH_BYTES, names._SEGMENTS), (120, 360, 24), "360 bytes per path, 24 segments"),
        (retention.UNFINISHED_GRACE.days, 1, "unfinished archives may go | 1 day |"),
        (retention.MAX_AHEAD.days, 1, "dated in the future | 1 day |"),
        ((INSTRUCTIONS.update, INSTRUCTIONS.query), (40 * 10**9, 5 * 10**9), "40 billion per update, 5 billion per"),
        (
            (INSTRUCTIONS.install, INSTRUCTIONS.inspect),
            (300 * 10**9, 200 * 10**6),
            "300 billion per installation, 200 m",
        ),
        ((ingress.MAX_INGRESS_BYTES, ic0_messages.MAX_REPLY_BYTES), (2 * MIB, 2 * MIB), "update reply | 2 MiB |"),
        (ic0_messages.MAX_QUERY_REPLY_BYTES, 3 * MIB, "| query reply | 3 MiB |"),
        ((http_api.MAX_BODY_BYTES, gateway.MAX_GATEWAY_BODY_BYTES), (5 * MIB, 10 * MIB), "| 5 MiB; of a gateway"),
        ((wasm_module.MAX_MODULE_BYTES, wasm_module.MAX_FUNCTIONS), (100 * MIB, 50_000), "| module | 100 MiB, 10 MiB"),
        (stable.MAX_STABLE_PAGES * stable.WASM_PAGE_SIZE, 500 << 30, "| stable memory | 500 GiB |"),
        (snapshots.MAX_SNAPSHOTS, 10, "| snapshots per canister | 10 |"),
        (snapshot_data.MAX_SLICE_BYTES, 2_000_000, "| 2,000,000 bytes |"),
        ((install.MAX_CHUNKS, install.MAX_CHUNK_BYTES), (100, MIB), "| 100 chunks of 1 MiB |"),
        ((replica.HISTORY_NS, replica.STOP_TIMEOUT_NS), (300 * 10**9, 300 * 10**9), "| 5 minutes of sandbox time |"),
        (queries.MAX_DEPTH, 6, "| depth of composite query calls | 6 |"),
        (request_log.RequestLog()._entries.maxlen, 100_000, "| 100,000 |"),
    ],
)
def test_fixed_limits_are_on_the_page(value: object, figure: object, row: str) -> None:
    assert value == figure
    assert row in PAGE
