"""Keys can neither leave a sink nor name a temporary file."""

import pytest

from knowtation_backup.errors import ConfigurationError
from knowtation_backup.model.blobs import check_key


@pytest.mark.parametrize("key", ["a", "side/x.json/manifest.json", "canister-export-a_b-20260101T000000Z-02.json.enc"])
def test_good_keys(key: str) -> None:
    assert check_key(key) == key


@pytest.mark.parametrize(
    "key",
    ["", "/a", "a/", "a//b", "..", "a/../b", ".hidden", "a/.tmp", "a\\b", "a b", "é", "a\n", "a" * 901, "C:/x", "*"],
)
def test_bad_keys(key: str) -> None:
    with pytest.raises(ConfigurationError):
        check_key(key)
