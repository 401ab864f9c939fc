"""The drop-in example reads the environment and writes files as Knowtation's scripts do (contracts 2.2, 2.4, 2.5)."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from s3_server import S3Server

from knowtation_backup import EncryptionKey, ExportReader, FsspecSink, Ktb1Codec, Pipeline
from knowtation_backup.errors import ConfigurationError
from knowtation_backup.sandbox import SandboxNetwork
from knowtation_backup.sandbox.hub import SandboxHub, SeedPlan, seed

PROGRAM = Path(__file__).parents[2] / "examples" / "knowtation_env.py"
HUB = "rrkah-fqaaa-aaaaa-aaaaq-cai"
URL = f"https://{HUB}.raw.icp0.io"
FULL = {"KNOWTATION_OPERATOR_EXPORT_KEY": "key", "KNOWTATION_CANISTER_URL": URL}
SINGLE = {"KNOWTATION_CANISTER_BACKUP_USER_ID": "google:1", "KNOWTATION_CANISTER_URL": URL}
DIR, OTHER_DIR = "KNOWTATION_OPERATOR_EXPORT_DIR", "KNOWTATION_CANISTER_BACKUP_DIR"
IDS, ID = "KNOWTATION_CANISTER_BACKUP_VAULT_IDS", "KNOWTATION_CANISTER_BACKUP_VAULT_ID"
BUCKET, SKIP = "KNOWTATION_CANISTER_BACKUP_S3_BUCKET", "KNOWTATION_CANISTER_BACKUP_SKIP_S3"
PREFIX = "KNOWTATION_CANISTER_BACKUP_S3_PREFIX"


@pytest.fixture(scope="module")
def program() -> Iterator[Any]:
    specification = importlib.util.spec_from_file_location("knowtation_env", PROGRAM)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["knowtation_env"] = module  # attrs resolves annotations through it
    specification.loader.exec_module(module)
    yield module
    del sys.modules["knowtation_env"]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "backups"),
        ({DIR: "a"}, "a"),
        ({OTHER_DIR: "b"}, "b"),
        ({DIR: " a ", OTHER_DIR: "b"}, "a"),
        ({DIR: "", OTHER_DIR: "b"}, "backups"),
        ({DIR: "/elsewhere"}, "/elsewhere"),
    ],
)
def test_directory_of_full_exports(program: Any, tmp_path: Path, environ: dict[str, str], expected: str) -> None:
    settings = program.read_settings(FULL | environ, tmp_path, single_vault=False)
    assert settings.directory == tmp_path / expected


@pytest.mark.parametrize(
    ("environ", "directory", "vault_ids"),
    [
        ({}, "backups", ("default",)),
        ({DIR: "a"}, "backups", ("default",)),
        ({OTHER_DIR: "b", ID: " work "}, "b", ("work",)),
        ({IDS: " work, ,default ,", ID: "other"}, "backups", ("work", "default")),
        ({IDS: "  ", ID: "other"}, "backups", ("other",)),
    ],
)
def test_settings_of_single_vaults(
    program: Any, tmp_path: Path, environ: dict[str, str], directory: str, vault_ids: tuple[str, ...]
) -> None:
    settings = program.read_settings(SINGLE | environ, tmp_path, single_vault=True)
    assert (settings.directory, settings.vault_ids) == (tmp_path / directory, vault_ids)
    assert settings.operator_key is None


def test_the_rest_of_the_settings(program: Any, tmp_path: Path) -> None:
    environ = FULL | {"CANISTER_AUTH_SECRET": " gate ", "KNOWTATION_CANISTER_BACKUP_ENCRYPT_KEY_HEX": "AB" * 32}
    settings = program.read_settings(environ, tmp_path, single_vault=False)
    assert (str(settings.address), settings.gateway_secret) == (URL, "gate")
    assert settings.codec.spec.key_ids == (EncryptionKey.from_hex("ab" * 32).key_id,)
    assert "gate" not in repr(settings)
    plain = program.read_settings(FULL | {"CANISTER_AUTH_SECRET": " "}, tmp_path, single_vault=False)
    assert (plain.gateway_secret, plain.codec) == (None, None)


def test_the_canister_id_file_comes_last(program: Any, tmp_path: Path) -> None:
    (tmp_path / "hub" / "icp").mkdir(parents=True)
    (tmp_path / "hub" / "icp" / "canister_ids.json").write_text(f'{{"hub": {{"ic": "{HUB}"}}}}')
    settings = program.read_settings({"KNOWTATION_OPERATOR_EXPORT_KEY": "key"}, tmp_path, single_vault=False)
    assert settings.address.canister_id == HUB


@pytest.mark.parametrize(
    ("environ", "single_vault", "named"),
    [
        (FULL | {"KNOWTATION_OPERATOR_EXPORT_KEY": " "}, False, "KNOWTATION_OPERATOR_EXPORT_KEY"),
        ({"KNOWTATION_OPERATOR_EXPORT_KEY": "key"}, False, "canister_ids.json"),
        (SINGLE | {"KNOWTATION_CANISTER_BACKUP_USER_ID": ""}, True, "KNOWTATION_CANISTER_BACKUP_USER_ID"),
        (SINGLE | {IDS: " , ,"}, True, IDS),
        (FULL | {"KNOWTATION_CANISTER_BACKUP_ENCRYPT_KEY_HEX": "ab" * 31}, False, "62 characters"),
    ],
)
def test_refused_before_anything_happens(
    program: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    environ: dict[str, str],
    named: str,
    *,
    single_vault: bool,
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(named)):
        program.read_settings(environ, tmp_path, single_vault=single_vault)
    assert program.run(environ, tmp_path, single_vault=single_vault) == 2
    printed = capsys.readouterr()
    assert named in printed.err
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("single_vault", [False, True])
@pytest.mark.parametrize(
    ("environ", "url", "region"),
    [
        ({}, None, "us-east-1"),
        ({BUCKET: " "}, None, "us-east-1"),
        ({BUCKET: "bucket", SKIP: "1"}, None, "us-east-1"),
        ({BUCKET: " bucket "}, "s3://bucket/knowtation-canister-backups/", "us-east-1"),
        ({BUCKET: "bucket", SKIP: "true", PREFIX: " "}, "s3://bucket/knowtation-canister-backups/", "us-east-1"),
        ({BUCKET: "bucket", SKIP: "", PREFIX: " a/b// "}, "s3://bucket/a/b/", "us-east-1"),
        ({BUCKET: "bucket", "AWS_REGION": " eu-west-1 "}, "s3://bucket/knowtation-canister-backups/", "eu-west-1"),
    ],
)
def test_where_files_are_uploaded(
    program: Any, tmp_path: Path, environ: dict[str, str], url: str | None, region: str, *, single_vault: bool
) -> None:
    settings = program.read_settings(FULL | SINGLE | environ, tmp_path, single_vault=single_vault)
    assert (settings.s3_url, settings.s3_region) == (url, region)


def test_dotenv_fills_in_and_never_overrides(program: Any, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# a=1\nA=file\n\nexport B = 'quo ted' \nC=x=y\nD=file\nno line\n")
    read = program.with_dotenv({"A": "set", "D": ""}, tmp_path)
    assert read == {"A": "set", "B": "quo ted", "C": "x=y", "D": ""}
    assert program.with_dotenv({"A": "1"}, tmp_path / "nowhere") == {"A": "1"}


@attrs.frozen(kw_only=True)
class Site:
    environ: dict[str, str]
    notes: int
    user_id: str


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with SandboxNetwork() as network, network.serve() as server:
        hub = SandboxHub.deploy(network, operator_key="operator-" * 5, gateway_secret="gateway-" * 5)
        planted = seed(hub, SeedPlan(tenants=2, vaults=2, notes=2, proposals=1))
        environ = {
            "KNOWTATION_OPERATOR_EXPORT_URL": hub.base_url(server),
            "KNOWTATION_CANISTER_URL": hub.base_url(server),
            "KNOWTATION_OPERATOR_EXPORT_KEY": "operator-" * 5,
            "CANISTER_AUTH_SECRET": "gateway-" * 5,
        }
        yield Site(environ=environ, notes=planted.notes, user_id=planted.user_ids[0])


@pytest.mark.sandbox
def test_full_export(program: Any, site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = "5e" * 32
    environ = site.environ | {"KNOWTATION_CANISTER_BACKUP_ENCRYPT_KEY_HEX": key}
    assert program.run(environ, tmp_path) == 0
    printed = capsys.readouterr().out
    (file,) = (tmp_path / "backups").glob("operator-full-export-*")
    assert printed.splitlines()[-1] == f"canister-operator-full-export: OK ({file})"
    assert re.fullmatch(r"operator-full-export-\d{8}T\d{6}Z\.json\.enc", file.name)
    opened = Ktb1Codec(EncryptionKey.from_hex(key)).open(lambda: iter([file.read_bytes()]))
    assert ExportReader(opened).read_all().counts["notes"] == site.notes


@pytest.mark.sandbox
def test_single_vaults(program: Any, site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environ = site.environ | {"KNOWTATION_CANISTER_BACKUP_USER_ID": site.user_id, IDS: "default,vault-1"}
    del environ["KNOWTATION_OPERATOR_EXPORT_KEY"]
    assert program.run(environ, tmp_path, single_vault=True) == 0
    said = re.fullmatch(r"canister-export-backup: OK \((\d{8}T\d{6}Z)\)", capsys.readouterr().out.splitlines()[-1])
    assert said
    names = {file.name for file in (tmp_path / "backups").glob("canister-export-*")}
    assert names == {f"canister-export-default-{said[1]}.json", f"canister-export-vault-1-{said[1]}.json"}


@pytest.mark.sandbox
def test_a_failure_is_one_line_on_standard_error(
    program: Any, site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.run(site.environ | {"KNOWTATION_OPERATOR_EXPORT_KEY": "wrong"}, tmp_path) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("canister-operator-full-export: ")
    assert "401" in printed.err
    assert list((tmp_path / "backups").glob("operator-full-export-*")) == []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3") / "server") as server:
        yield server


@pytest.fixture
def credentials(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where AWS tools look for them, and nowhere else; whoever writes may not delete."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.writer.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.writer.secret_key)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)


def objects(server: S3Server, bucket: str) -> set[str]:
    return {entry["Key"] for entry in server.client().list_objects_v2(Bucket=bucket).get("Contents", [])}


@pytest.mark.sandbox
@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize("prefix", ["", " nightly// "])
def test_the_file_is_uploaded_under_its_name_and_encrypted_there(  # noqa: PLR0917 - fixtures
    program: Any, site: Site, server: S3Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], prefix: str
) -> None:
    bucket = server.make_bucket(f"upload-{len(prefix)}")
    server.forbid(bucket, server.writer, "s3:DeleteObject", "s3:DeleteObjectVersion")
    assert program.run(site.environ | {BUCKET: bucket, PREFIX: prefix}, tmp_path) == 0
    (file,) = (tmp_path / "backups").glob("operator-full-export-*")
    assert capsys.readouterr().out == f"canister-operator-full-export: OK ({file})\n"
    folder = "nightly/" if prefix else "knowtation-canister-backups/"
    answer = server.client().get_object(Bucket=bucket, Key=folder + file.name)
    assert answer["Body"].read() == file.read_bytes()
    assert answer["ResponseMetadata"]["HTTPHeaders"]["x-amz-server-side-encryption"] == "AES256"
    with FsspecSink(f"s3://{bucket}/{folder}", storage_options=server.storage_options()) as there:
        assert Pipeline(sink=there).verify(file.name).ok


@pytest.mark.sandbox
def test_every_vault_is_uploaded_with_credentials_of_the_env_file(site: Site, server: S3Server, tmp_path: Path) -> None:
    bucket = server.make_bucket("vaults")
    variables = site.environ | {
        "KNOWTATION_CANISTER_BACKUP_USER_ID": site.user_id,
        IDS: "default,vault-1",
        BUCKET: bucket,
        PREFIX: "/v",  # this slash goes
        "AWS_ACCESS_KEY_ID": server.writer.access_key,
        "AWS_SECRET_ACCESS_KEY": server.writer.secret_key,
        "AWS_ENDPOINT_URL": server.endpoint,
    }
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "KNOWTATION_"))}
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, os.fspath(PROGRAM), "vaults"],
        cwd=tmp_path,
        env=environ | {"AWS_CONFIG_FILE": "none", "AWS_SHARED_CREDENTIALS_FILE": "none"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    names = {f"v/{file.name}" for file in (tmp_path / "backups").glob("canister-export-*")}
    assert len(names) == 2
    assert names == {key for key in objects(server, bucket) if not key.startswith("v/side/")}


@pytest.mark.sandbox
@pytest.mark.usefixtures("credentials")
def test_a_failing_upload_fails_the_run_and_leaves_the_local_file(
    program: Any, site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.run(site.environ | {BUCKET: "no-such-bucket-here"}, tmp_path) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("canister-operator-full-export: ")
    assert "no-such-bucket-here" in printed.err
    (file,) = (tmp_path / "backups").glob("operator-full-export-*")
    assert Pipeline(sink=FsspecSink(tmp_path / "backups")).verify(file.name).ok


@pytest.mark.sandbox
@pytest.mark.usefixtures("credentials")
def test_exactly_1_skips_the_upload(program: Any, site: Site, server: S3Server, tmp_path: Path) -> None:
    bucket = server.make_bucket("skipped")
    assert program.run(site.environ | {BUCKET: bucket, SKIP: "1"}, tmp_path) == 0
    assert objects(server, bucket) == set()
    assert program.run(site.environ | {BUCKET: bucket, SKIP: "yes"}, tmp_path) == 0
    assert objects(server, bucket)
