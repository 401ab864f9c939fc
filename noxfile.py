"""
Every check of this project, by name: ``nox -l`` lists them, ``nox`` runs the default ones.

``nox -s quickstart`` shows the main job; ``nox -s tests`` runs all tests; ``nox -s bench -- NAME`` measures.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml("pyproject.toml")
GROUPS = PYPROJECT["dependency-groups"]
PEERS = ROOT / "tests" / "peers"
TOOLS = ROOT / "tools"
ALL_EXTRAS = ".[sandbox,zstd,brotli,age,sftp,yaml]"

nox.needs_version = ">=2025.2"
nox.options.default_venv_backend = "virtualenv"
nox.options.error_on_missing_interpreters = True
nox.options.sessions = ["lint", "imports", "mypy", "typing_api", "wasm", "tests", "examples", "docs"]


def _install(session: nox.Session, *groups: str, project: str | None = ALL_EXTRAS) -> None:
    """Install the project from a freshly built wheel, with dependency groups."""
    requirements = [item for group in groups for item in GROUPS[group]]
    session.install(*requirements, *([project] if project else []), silent=True)


def _npm_install(session: nox.Session, folder: Path) -> bool:
    """Install the npm packages pinned in *folder*; `False` when there is no npm on this machine."""
    if shutil.which("npm") is None:
        session.warn(f"npm is not installed: what needs {folder.name}/package.json cannot run")
        return False
    with session.chdir(folder):
        session.run("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", external=True, silent=True)
    return True


@nox.session
def quickstart(session: nox.Session) -> None:
    """Export a real hub on the embedded sandbox, seal, store, verify and read it back."""
    _install(session, project=".[sandbox]")
    session.run("python", "examples/quickstart.py", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run every test, against the built wheel; third-party clients too where npm is there."""
    _install(session, "test")
    _npm_install(session, PEERS)
    session.run("pytest", "-n", "2", "--dist", "loadfile", *session.posargs)


@nox.session
def min_deps(session: nox.Session) -> None:
    """Run the unit tests with the lowest versions the project says it supports."""
    _install(session, "test")
    floors = [
        item.replace(">=", "==")
        for item in [
            *PYPROJECT["project"]["dependencies"],
            *(item for extra in PYPROJECT["project"]["optional-dependencies"].values() for item in extra),
        ]
    ]
    session.install(*floors, silent=True)
    session.run("pytest", "-n", "2", "tests/unit", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, spelling and formatting."""
    _install(session, "lint", project=None)
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("codespell")


@nox.session
def imports(session: nox.Session) -> None:
    """Check that modules import from lower layers only."""
    _install(session, "lint")
    session.run("lint-imports")


@nox.session
def mypy(session: nox.Session) -> None:
    """Type-check everything, strictly."""
    _install(session, "typing", "test")
    session.run("mypy", "src", "tests", "examples", "benchmarks", "noxfile.py", *session.posargs)


@nox.session
def typing_api(session: nox.Session) -> None:
    """Type-check the public surface as its users see it, with mypy and pyright."""
    _install(session, "typing", "test")
    session.run("mypy", "tests/typing")
    session.run("pyright", "tests/typing")
    session.run("pyright", "--ignoreexternal", "--verifytypes", "knowtation_backup")


@nox.session
def wasm(session: nox.Session) -> None:
    """Prove that the committed Wasm is exactly what the committed Motoko source gives (``-- --write`` rebuilds)."""
    if not _npm_install(session, TOOLS):
        session.error("the Motoko compiler is an npm package: install npm")
    arguments = session.posargs or ["--check"]
    session.run("node", "tools/build_wasm.mjs", *arguments, external=True)


@nox.session
def examples(session: nox.Session) -> None:
    """Run every example program."""
    _install(session)
    programs = sorted((ROOT / "examples").rglob("*.py"))
    for program in (path for path in programs if not path.name.startswith("_")):
        session.log(program.name)
        session.run("python", str(program), silent=True)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    _install(session, "docs", "test")
    session.run("sphinx-build", "-W", "--keep-going", "-q", "-b", "html", "docs", "build/docs")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure: ``nox -s bench -- NAME`` runs ``NAME_bench.py`` and writes ``benchmarks/results/NAME.json``."""
    # Not NAME.py: Python itself has modules of such names, codecs for one.
    programs = {path.stem.removesuffix("_bench"): path for path in sorted((ROOT / "benchmarks").glob("*_bench.py"))}
    if not session.posargs or session.posargs[0] not in programs:
        session.error(f"name one of: {', '.join(programs)}")
    _install(session, "bench")
    name, *rest = session.posargs
    session.run("python", os.fspath(programs[name]), *rest, env={"PYTHONPATH": os.fspath(ROOT / "benchmarks")})
