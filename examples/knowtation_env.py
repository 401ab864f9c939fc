"""
A drop-in for Knowtation's own export scripts: same environment variables, file names and success lines.

    python examples/knowtation_env.py            every tenant, ``operator-full-export-<stamp>.json[.enc]``
    python examples/knowtation_env.py vaults     vaults of one tenant, ``canister-export-<vault>-<stamp>.json[.enc]``

Run it in the project's root: a ``.env`` there fills in what the environment does not set, relative directories start
there, and so does ``hub/icp/canister_ids.json``. Beside the files, a folder ``side`` takes what they are verified with.
Where no variable is set at all, both exports are shown on a sandbox hub.

With ``KNOWTATION_CANISTER_BACKUP_S3_BUCKET``, and ``KNOWTATION_CANISTER_BACKUP_SKIP_S3`` not exactly ``1``, every file
is uploaded once it is written and verified, with what it is verified with; what fails there leaves the local files. The
key is the prefix and the file's name, except that no key begins with a slash, as the scripts let a prefix do. The
credentials, found where AWS tools look for them, must allow to create and to read objects; more is not needed.

Exit status: 0 done, 1 failed, 2 wrongly configured (nothing was read or written then).
"""

from __future__ import annotations

import datetime as dt
import os
import secrets
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import attrs

from knowtation_backup import (
    BackupError,
    BackupSource,
    EncryptionCodec,
    EncryptionKey,
    FsspecSink,
    HubAddress,
    HubClient,
    Ktb1Codec,
    OperatorExporter,
    Pipeline,
    S3Options,
    VaultExporter,
)
from knowtation_backup.errors import ConfigurationError
from knowtation_backup.sandbox import SandboxNetwork
from knowtation_backup.sandbox.hub import SandboxHub, SeedPlan, seed
from knowtation_backup.sinks.s3_options import s3_prefix, s3_region

BACKUP = "KNOWTATION_CANISTER_BACKUP_"


@attrs.frozen(kw_only=True)
class Settings:
    """What the variables say, checked."""

    address: HubAddress
    directory: Path
    operator_key: str | None = attrs.field(repr=False)
    gateway_secret: str | None = attrs.field(repr=False)
    codec: EncryptionCodec | None
    user_id: str = ""
    vault_ids: tuple[str, ...] = ()
    s3_url: str | None = None
    s3_region: str = ""


def with_dotenv(environ: Mapping[str, str], root: Path) -> dict[str, str]:
    """Return the environment, filled up from ``.env``; a variable that is set stays, even when it is empty."""
    values = dict(environ)
    file = root / ".env"
    for line in file.read_text("utf-8").splitlines() if file.is_file() else ():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and not name.startswith("#"):
            trimmed = value.strip()
            quoted = len(trimmed) > 1 and trimmed[0] == trimmed[-1] and trimmed[0] in "\"'"
            values.setdefault(name.strip(), trimmed[1:-1] if quoted else trimmed)
    return values


def read_settings(environ: Mapping[str, str], root: Path, *, single_vault: bool) -> Settings:
    """Check all variables before anything is read or written; raises `ConfigurationError`."""

    def get(name: str) -> str:
        return environ.get(name, "").strip()

    bucket = get(f"{BACKUP}S3_BUCKET") if get(f"{BACKUP}SKIP_S3") != "1" else ""
    user_id, vault_ids = get(f"{BACKUP}USER_ID"), _vault_ids(environ)
    if single_vault and not user_id:
        raise ConfigurationError(f"{BACKUP}USER_ID is not set", kind="user_id_missing")
    if not single_vault and not get("KNOWTATION_OPERATOR_EXPORT_KEY"):
        raise ConfigurationError("KNOWTATION_OPERATOR_EXPORT_KEY is not set", kind="operator_key_missing")
    directory = environ.get(f"{BACKUP}DIR", "")
    if not single_vault:
        # Set but empty means `backups`, not the second variable: what the scripts always did.
        directory = environ.get("KNOWTATION_OPERATOR_EXPORT_DIR", directory)
    key = get(f"{BACKUP}ENCRYPT_KEY_HEX")
    ids_file = root / "hub" / "icp" / "canister_ids.json"
    return Settings(
        address=HubAddress.resolve(environ, ids_file=ids_file, single_vault=single_vault),
        directory=root / (directory.strip() or "backups"),
        operator_key=None if single_vault else get("KNOWTATION_OPERATOR_EXPORT_KEY"),
        gateway_secret=get("CANISTER_AUTH_SECRET") or None,
        codec=Ktb1Codec(EncryptionKey.from_hex(key)) if key else None,
        user_id=user_id,
        vault_ids=vault_ids,
        s3_url=f"s3://{bucket}/{s3_prefix(environ.get(f'{BACKUP}S3_PREFIX'))}" if bucket else None,
        s3_region=s3_region(None, environ),
    )


def _vault_ids(environ: Mapping[str, str]) -> tuple[str, ...]:
    several = environ.get(f"{BACKUP}VAULT_IDS", "").strip()
    if not several:
        return (environ.get(f"{BACKUP}VAULT_ID", "").strip() or "default",)
    vault_ids = tuple(filter(None, map(str.strip, several.split(","))))
    if not vault_ids:
        raise ConfigurationError(f"{BACKUP}VAULT_IDS holds nothing but commas")
    return vault_ids


def export(settings: Settings, moment: dt.datetime) -> list[Path]:
    """Write one file, or one for each vault, all with the same stamp; every file is verified, and then uploaded."""
    sink = FsspecSink(settings.directory)
    archive_ids = []
    with HubClient(
        settings.address, operator_key=settings.operator_key, gateway_secret=settings.gateway_secret
    ) as client:
        sources: list[BackupSource] = [OperatorExporter(client)]
        if settings.operator_key is None:
            sources = [VaultExporter(client, user_id=settings.user_id, vault_id=name) for name in settings.vault_ids]
        for source in sources:
            pipeline = Pipeline(source=source, sink=sink, codec=settings.codec, clock=lambda: moment)
            report = pipeline.backup()
            pipeline.verify(report.archive_id).raise_for_findings()
            archive_ids.append(report.archive_id)
    if settings.s3_url is not None:
        region = {"client_kwargs": {"region_name": settings.s3_region}}
        with FsspecSink(settings.s3_url, storage_options=region, s3=S3Options()) as bucket:
            for archive_id in archive_ids:
                Pipeline(sink=sink).copy_to(bucket, archive_id)
    return [settings.directory / archive_id for archive_id in archive_ids]


def run(environ: Mapping[str, str], root: Path, *, single_vault: bool = False) -> int:
    """Do what the scripts do, and return the exit status."""
    name = "canister-export-backup" if single_vault else "canister-operator-full-export"
    moment = dt.datetime.now(dt.UTC)
    status = 2
    try:
        settings = read_settings(environ, root, single_vault=single_vault)
        status = 1
        files = export(settings, moment)
    except BackupError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return status
    for file in files if single_vault else ():
        print(f"wrote {file}")
    print(f"{name}: OK ({f'{moment:%Y%m%dT%H%M%SZ}' if single_vault else files[0]})")
    return 0


def demonstrate() -> int:
    """Show both exports on a sandbox hub, in a directory of their own."""
    print("No KNOWTATION_ variable is set: showing both exports on a sandbox hub.")
    operator_key, gateway_secret = secrets.token_hex(32), secrets.token_hex(32)
    with SandboxNetwork() as network, network.serve() as server:
        hub = SandboxHub.deploy(network, operator_key=operator_key, gateway_secret=gateway_secret)
        planted = seed(hub, SeedPlan(tenants=2, vaults=2))
        environ = {
            "KNOWTATION_CANISTER_URL": hub.base_url(server) + "/",
            "KNOWTATION_OPERATOR_EXPORT_KEY": operator_key,
            "CANISTER_AUTH_SECRET": gateway_secret,
            f"{BACKUP}ENCRYPT_KEY_HEX": secrets.token_hex(32),
            f"{BACKUP}USER_ID": planted.user_ids[0],
            f"{BACKUP}VAULT_IDS": "default, vault-1",
        }
        root = Path(tempfile.mkdtemp(prefix="knowtation-"))
        return run(environ, root) or run(environ, root, single_vault=True)


if __name__ == "__main__":
    variables = with_dotenv(os.environ, Path.cwd())
    os.environ.update(variables)  # credentials for S3 may be in the file, too
    if not any(name.startswith("KNOWTATION_") for name in variables):
        sys.exit(demonstrate())
    sys.exit(run(variables, Path.cwd(), single_vault=sys.argv[1:] == ["vaults"]))
