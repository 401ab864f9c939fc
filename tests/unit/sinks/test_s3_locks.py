"""What stores say of Object Lock in different words, and extensions that race; no server needed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import attrs
import pytest
from botocore.exceptions import ClientError

from knowtation_backup.errors import SinkError, SinkPermissionError, SinkUnavailableError
from knowtation_backup.model.blobs import BlobLock
from knowtation_backup.sinks._s3_errors import translate
from knowtation_backup.sinks._s3_locks import S3Locks
from knowtation_backup.sinks.s3_options import S3Options

UNTIL = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


@attrs.define
class Store:
    """Answers as the parts of a client that locks need."""

    head: dict[str, Any] = attrs.field(factory=dict)
    refusals: dict[str, tuple[str, int]] = attrs.field(factory=dict)
    asked: list[str] = attrs.field(factory=list)
    meanwhile: Mapping[str, Any] = attrs.field(factory=dict)
    """What another host sets just before a request to lock arrives."""
    locked: dict[str, Any] = attrs.field(factory=dict)

    def look(self, _key: str) -> Mapping[str, Any]:
        self.asked.append("head")
        return dict(self.head)

    def call(self, method: str, doing: str, **parameters: Any) -> Mapping[str, Any]:
        self.asked.append(method)
        self.head |= self.meanwhile if method == "put_object_retention" else {}
        if method in self.refusals:
            code, status = self.refusals[method]
            facts = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
            raise translate(ClientError(facts, method), doing)
        if method == "put_object_retention":
            self.locked = parameters["Retention"]
        return {"Retention": {"Mode": "COMPLIANCE", "RetainUntilDate": UNTIL}}

    def locks(self, **options: Any) -> S3Locks:
        client: Any = self
        return S3Locks(client, "some/", "s3://bucket/some", S3Options(**options), self.look)


@pytest.mark.parametrize(
    ("code", "status", "again"),
    [
        ("NoSuchObjectLockConfiguration", 404, 4),  # AWS, of an object
        ("ObjectLockConfigurationNotFoundError", 404, 4),  # SeaweedFS, of an object
        ("InvalidRequest", 400, 3),  # AWS, of a bucket: no object of it needs to be asked for
        ("NotImplemented", 501, 3),  # stores that know no locks
    ],
)
def test_an_object_without_a_lock_is_none_whatever_the_store_calls_it(code: str, status: int, again: int) -> None:
    store = Store(refusals={"get_object_retention": (code, status)})
    locks = store.locks()
    assert locks.lock_of("a") == locks.lock_of("a") == BlobLock()
    assert len(store.asked) == again


def test_a_store_that_cannot_be_asked_is_not_taken_for_one_without_locks() -> None:
    with pytest.raises(SinkPermissionError):
        Store(refusals={"get_object_retention": ("AccessDenied", 403)}).locks().lock_of("a")
    with pytest.raises(SinkUnavailableError):
        Store(refusals={"get_object_retention": ("SlowDown", 503)}).locks().lock_of("a")


def test_locks_that_head_does_not_show_are_asked_for() -> None:
    assert Store().locks().lock_of("a").until == UNTIL
    store = Store(head={"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": UNTIL})
    locks = store.locks()
    assert locks.lock_of("a").until == UNTIL
    store.head = {}
    assert locks.lock_of("b") == BlobLock(), "these credentials see locks there"
    assert store.asked == ["head", "head"]


def test_versions_of_a_bucket_that_keeps_none_any_more_do_not_count() -> None:
    assert not Store(head={"VersionId": "null"}).locks().lock_of("a").versioned
    assert Store(head={"VersionId": "1"}).locks().lock_of("a").versioned


def test_an_extension_that_came_too_late_is_no_failure() -> None:
    """Another host locked the object for longer between our look and our request, which the store then refuses."""
    refused = {"put_object_retention": ("AccessDenied", 403)}
    shown = {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": UNTIL}
    longer = {"ObjectLockRetainUntilDate": UNTIL + 2 * DAY}
    store = Store(head=dict(shown), refusals=refused, meanwhile=longer)
    assert store.locks().retain_until("a", UNTIL + DAY).until == UNTIL + 2 * DAY
    with pytest.raises(SinkPermissionError) as caught:
        Store(head=dict(shown), refusals=refused).locks().retain_until("a", UNTIL + DAY)
    assert "s3:PutObjectRetention" in caught.value.hint


def test_a_lock_that_is_long_enough_is_left_alone() -> None:
    store = Store(head={"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": UNTIL})
    for until in (UNTIL, UNTIL - DAY):
        assert store.locks().retain_until("a", until).until == UNTIL
    assert set(store.asked) == {"head"}


@pytest.mark.parametrize(
    ("head", "options", "mode"),
    [
        ({}, {}, "GOVERNANCE"),
        ({}, {"object_lock_mode": "compliance", "object_lock_for": DAY}, "COMPLIANCE"),
        ({"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": UNTIL}, {}, "COMPLIANCE"),
    ],
)
def test_the_mode_is_that_of_the_lock_else_of_the_options(
    head: dict[str, Any], options: dict[str, Any], mode: str
) -> None:
    store = Store(head=head, refusals={"get_object_retention": ("NoSuchObjectLockConfiguration", 404)})
    store.locks(**options).retain_until("a", UNTIL + DAY)
    assert store.locked == {"Mode": mode, "RetainUntilDate": UNTIL + DAY}


def test_a_bucket_without_locks_is_named() -> None:
    refusals = {"get_object_retention": ("InvalidRequest", 400), "put_object_retention": ("InvalidRequest", 400)}
    with pytest.raises(SinkError) as caught:
        Store(refusals=refusals).locks().retain_until("a", UNTIL)
    assert caught.value.kind == "no_object_lock"
