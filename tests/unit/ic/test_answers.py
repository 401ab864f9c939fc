"""HTTP answers and rejections get their names; texts of others are shown in part, and never with what we sent."""

import datetime as dt

import pytest

from knowtation_backup.errors import BackupError, CertificateError, ConfigurationError, RejectedError
from knowtation_backup.ic.addresses import MAINNET, NodeAddress
from knowtation_backup.ic.answers import http_refusal, is_missing_endpoint, is_overload, outer_map
from knowtation_backup.ic.rejections import blotted, rejection
from knowtation_backup.ic.sending import HttpAnswer

NOW = dt.datetime(2026, 4, 8, 12, 0, tzinfo=dt.UTC)
_FAR = f"Mon, 01 Jan {'9' * 20} 00:00:00 GMT"
"""A year beyond what calendars can count."""


def refusal(status: int, text: str = "", *, cause: str = "", retry_after: str = "", date: str = "") -> BackupError:
    answer = HttpAnswer(
        route="call m", status=status, body=text.encode(), cause=cause, retry_after=retry_after, date=date
    )
    return http_refusal(answer, now=NOW)


@pytest.mark.parametrize(
    ("status", "text", "kind", "retryable"),
    [
        (400, "Failed to deserialize cbor request: x", "rejected", False),
        (400, "Invalid signature: Invalid basic signature", "identity_refused", False),
        (403, "Missing signature from user: 2vxsx-fae", "identity_refused", False),
        (400, "Invalid delegation expiry: Specified sender delegation has expired", "identity_refused", False),
        (400, "Canister aaaaa-aa is not one of the delegation targets.", "identity_refused", False),
        (400, "Specified CanisterId X does not match effective canister id in URL Y", "rejected", False),
        (403, "The user tries to access Request ID not signed by the caller.", "forbidden", False),
        (404, "Invalid path requested.", "not_found", False),
        (413, "Request 0x00 is too large.", "message_too_large", False),
        (408, "error: body_timed_out", "network_unavailable", True),
        (429, "The service is overloaded.", "overloaded", True),
        (503, "Service is overloaded, try again later.", "overloaded", True),
        (500, "error: internal_server_error", "network_unavailable", True),
        (502, "<html>", "network_unavailable", True),
        (302, "", "redirected", False),
        (451, "", "rejected", False),
    ],
)
def test_every_row_of_http_errors_has_its_kind(status: int, text: str, kind: str, *, retryable: bool) -> None:
    error = refusal(status, text)
    assert (error.kind, error.retryable) == (kind, retryable)
    assert text[:20] in error.message
    assert is_overload(error) == (status in {429, 503})


def test_a_canister_that_the_boundary_does_not_know_is_named() -> None:
    assert refusal(400, "error: canister_not_found", cause="canister_not_found").kind == "canister_not_found"


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7), ("Wed, 08 Apr 2026 12:00:30 GMT", 30), ("x", None), (_FAR, None)]
)
def test_retry_after_is_read(header: str, seconds: float | None) -> None:
    assert refusal(503, retry_after=header).context.get("retry_after_seconds") == seconds


@pytest.mark.parametrize(
    ("text", "date", "says"),
    [
        ("Minimum allowed expiry: 2026-04-08 12:10:00.5 UTC, Maximum allowed", "", "about 600 s behind"),
        ("Minimum allowed expiry: 2026-04-08 11:59:00 UTC, Maximum allowed", "", "about 60 s ahead of"),
        ("", "Wed, 08 Apr 2026 13:00:00 GMT", "about 3600 s behind"),
        ("", "", "clock is wrong"),
        ("Minimum allowed expiry: 2026-99-08 12:10:00 UTC", "nonsense", "clock is wrong"),
    ],
)
def test_a_refused_expiry_names_the_difference_of_clocks(text: str, date: str, says: str) -> None:
    error = refusal(
        400, f"Invalid request expiry: Specified ingress_expiry not within expected range: {text}", date=date
    )
    assert error.kind == "clock_differs"
    assert says in error.message


def test_only_a_missing_version_makes_a_missing_endpoint() -> None:
    def missing(status: int, text: str, cause: str = "") -> bool:
        return is_missing_endpoint(HttpAnswer(route="r", status=status, body=text.encode(), cause=cause))

    assert missing(404, "Not found.")
    assert not missing(404, "Invalid path requested.")
    assert not missing(404, "", "canister_not_found")
    assert not missing(400, "Not found.")


@pytest.mark.parametrize(
    ("reject_code", "error_code", "message", "kind"),
    [
        (2, "IC0210", "Canister X is heap delta rate limited: current delta debit is 1", "rate_limited"),
        (5, "IC0504", "Error from Wasm chunk store: Canister is heap delta rate limited.", "rate_limited"),
        (5, "IC0504", "Canister violated its contract", "canister_error"),
        (2, "IC0209", "Canister X is rate limited", "rate_limited"),
        (2, "IC0204", "", "rate_limited"),
        (2, "IC0207", "out of cycles", "out_of_cycles"),
        (5, "IC0532", "Canister cannot grow memory by 1 bytes", "out_of_cycles"),
        (5, "IC0534", "", "reserved_cycles_limit"),
        (3, "IC0305", "", "snapshot_not_found"),
        (4, "IC0406", "Snapshot S is not currently loadable on the specified canister X.", "not_loadable"),
        (4, "IC0406", "no", "canister_rejected"),
        (2, None, "", "system_transient"),
        (9, "", "", "rejected"),
    ],
)
def test_rejections_have_stable_kinds(reject_code: int, error_code: str | None, message: str, kind: str) -> None:
    error = rejection(what="call m", reject_code=reject_code, message=message, error_code=error_code, certified=True)
    assert isinstance(error, RejectedError)
    assert (error.kind, error.certified, error.reject_code) == (kind, True, reject_code)
    assert error.context["error_code"] == (error_code or "")


def test_texts_of_others_are_cut_and_made_harmless() -> None:
    error = refusal(400, "\x1b[31m" + "x" * 5000)
    assert "\x1b" not in error.message
    assert len(error.message) < 300


def test_what_we_sent_is_blotted_out_of_answers() -> None:
    secret = "correct horse battery staple"
    arg = b"DIDL\x00\x01\x71\x1c" + secret.encode()
    assert secret[:10] not in blotted(f"cannot store {secret}!", arg)
    assert blotted(f"cannot store {secret}!", arg) == "cannot store ***!"
    assert blotted(f"cannot store {secret}", arg) == "cannot store ***"
    answer = HttpAnswer(route="call m", status=400, body=b"", cause=secret)
    assert secret not in repr(http_refusal(answer, now=NOW, arg=arg).context)
    refused = rejection(what="call m", reject_code=4, message=f"not {secret}", error_code=None, certified=True, arg=arg)
    assert secret not in str(refused) + repr(refused.context)


@pytest.mark.parametrize(
    "url",
    [
        "http://icp-api.io",
        "https://user:hunter2@icp-api.io",
        "https://icp-api.io/api",
        "https://icp-api.io?x=1",
        "ftp://icp-api.io",
        "icp-api.io",
        "",
        "https://[",
        "https://a..b",
        "https://xn--a",
        "https://\uff49cp-api.io",
        "https://a\u200b.com",
        f"https://{'a' * 64}.com",
    ],
)
def test_addresses_that_cannot_be_used_are_refused_without_repeating_them(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        NodeAddress.parse(url)
    assert caught.value.kind in {"bad_url", "insecure_http"}
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "mainnet"),
    [
        (MAINNET, True),
        ("https://IC0.app/", True),
        ("https://rdmx6-jaaaa-aaaaa-aaadq-cai.icp0.io:443", True),
        ("https://icp-api.io.:8443", True),
        ("https://icp-api\u3002io", True),
        ("http://127.0.0.1:4943", False),
        ("http://localhost:8000", False),
        ("http://[::1]:8000", False),
        ("https://not-icp-api.io", False),
    ],
)
def test_hosts_of_mainnet_are_known(url: str, *, mainnet: bool) -> None:
    assert NodeAddress.parse(url).is_mainnet == mainnet


def test_outer_maps_are_read_without_copies() -> None:
    body = bytes.fromhex("d9d9f7a2") + b"\x66status\x67replied\x6bcertificate\x43abc"
    fields = outer_map(body, route="call m")
    assert fields["status"] == "replied"
    view = fields["certificate"]
    assert isinstance(view, memoryview)
    assert (bytes(view), view.obj) == (b"abc", body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00",
        b"<html>",
        b"\xa1\x61a",
        b"\xa1\x61a\x44abc",
        b"\xa1\x61a\x00\x00",
        b"\xa2\x61a\x00\x61a\x01",
        b"\xa1\x01\x00",
        b"\xa1\x61a\xbf\xff",
        b"\xa1\x61a\xfb\x00\x00\x00\x00\x00\x00\x00\x00",
        b"\xa1\x61a\x20",
        b"\xa1\x61a\x61\xff",
        b"\xa1\x61a" + b"\x81" * 100 + b"\x00",
        b"\xa1\x61a\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xa1\x61a\x5b\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff",
    ],
)
def test_other_outer_shapes_are_refused(body: bytes) -> None:
    with pytest.raises(CertificateError) as caught:
        outer_map(body, route="call m")
    assert caught.value.kind == "bad_reply"
