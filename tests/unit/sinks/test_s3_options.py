"""S3 options are checked at construction, and Knowtation's rules for prefix and region are kept."""

import datetime as dt
from typing import Any

import pytest

from knowtation_backup.errors import ConfigurationError
from knowtation_backup.sinks.s3_options import S3Options, s3_prefix, s3_region

NOW = dt.datetime(2026, 4, 8, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    "facts",
    [
        {"server_side_encryption": "aes256"},
        {"kms_key_id": "some-key"},
        {"server_side_encryption": None, "kms_key_id": "some-key"},
        {"sse_customer_key": b"short"},
        {"storage_class": "standard"},
        {"storage_class": "A\r\nX-Injected: 1"},
        {"object_lock_mode": "governance"},
        {"object_lock_for": dt.timedelta(days=1)},
        {"object_lock_mode": "forever", "object_lock_for": dt.timedelta(days=1)},
        {"object_lock_mode": "compliance", "object_lock_for": dt.timedelta(0)},
        {"checksum": "sha1"},
        {"multipart_from_bytes": 1 << 20},
        {"part_bytes": (5 << 20) - 1},
        {"part_bytes": True},
        {"concurrency": 0},
    ],
)
def test_impossible_options_are_refused(facts: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        S3Options(**facts)
    assert caught.value.kind == "bad_option"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (S3Options(), {"ServerSideEncryption": "AES256"}),
        (S3Options(server_side_encryption=None), {}),
        (
            S3Options(server_side_encryption="aws:kms", kms_key_id="k", storage_class="STANDARD_IA"),
            {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "k", "StorageClass": "STANDARD_IA"},
        ),
        (S3Options(sse_customer_key=b"k" * 32), {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": b"k" * 32}),
        (
            S3Options(
                server_side_encryption=None,
                object_lock_mode="compliance",
                object_lock_for=dt.timedelta(days=2),
                legal_hold=True,
            ),
            {
                "ObjectLockMode": "COMPLIANCE",
                "ObjectLockRetainUntilDate": NOW + dt.timedelta(days=2),
                "ObjectLockLegalHoldStatus": "ON",
            },
        ),
    ],
)
def test_options_become_parameters(options: S3Options, expected: dict[str, Any]) -> None:
    assert options.creation(NOW) == expected
    assert not any(name.startswith("ObjectLock") for name in options.creation(NOW, lock=False))


def test_a_customers_key_is_not_shown() -> None:
    assert "kkk" not in repr(S3Options(sse_customer_key=b"k" * 32))


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        (None, "knowtation-canister-backups/"),
        ("", "knowtation-canister-backups/"),
        ("  \t", "knowtation-canister-backups/"),
        ("a", "a/"),
        (" a/b ", "a/b/"),
        ("a///", "a/"),
        ("/a/", "/a/"),
        ("//a//b//", "//a//b/"),
    ],
)
def test_prefixes_are_read_as_the_knowtation_tools_do(text: str | None, prefix: str) -> None:
    assert s3_prefix(text) == prefix


@pytest.mark.parametrize(
    ("explicit", "environment", "region"),
    [
        (None, {}, "us-east-1"),
        (" ", {"AWS_REGION": " "}, "us-east-1"),
        (None, {"AWS_REGION": " eu-west-1 "}, "eu-west-1"),
        ("ap-south-1", {"AWS_REGION": "eu-west-1"}, "ap-south-1"),
    ],
)
def test_regions_are_chosen_as_the_knowtation_tools_do(
    explicit: str | None, environment: dict[str, str], region: str
) -> None:
    assert s3_region(explicit, environment) == region
