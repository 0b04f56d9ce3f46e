"""Rules of the house that no single room can keep: floors, charters, silence at import, no addresses."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent.parent
ROOMS = (
    "vocabulary", "interop", "models", "stores", "validation", "governance", "twin", "assets", "clinic",
    "orchestration", "hospital",
)  # fmt: skip
MODULES = sorted(path for room in ROOMS for path in (CHECKOUT / room).rglob("*.py"))
# What Dagster loads needs Dagster: seconds, and not on the live path.
DAGSTER_ROOMS = (
    "assets",
    *(
        f"orchestration/{name}.py"
        for name in ("definitions", "hooks", "jobs", "reactions", "resources", "schedules", "sensors")
    ),
    "orchestration/io_managers.py",
)


def relative(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


def module_name(path: Path) -> str:
    return relative(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_the_floors_hold():
    # The console script, as in `make lint`: nobody imports upward, nobody but stores speaks to PostgreSQL.
    answer = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=CHECKOUT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout[-3000:]
    assert "0 broken" in answer.stdout


def test_every_room_is_installed_and_watched_by_the_floors():
    settings = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    watched = set(settings["tool"]["importlinter"]["root_packages"])
    installed = set(settings["tool"]["setuptools"]["packages"])
    assert watched == set(ROOMS)
    assert {module_name(path) for path in MODULES if path.name == "__init__.py"} == installed


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_module_opens_with_its_charter(path):
    charter = ast.get_docstring(ast.parse(path.read_text())) or ""
    first = charter.split("\n\n")[0]
    assert first, "what it is, in its first line"
    assert len(first) < 400
    # What belongs here, and where the tempting other thing goes.
    assert re.search(r"^Here: ", charter, re.MULTILINE), "a charter says what is here"
    assert re.search(r"(^|\. )Not here: ", charter, re.MULTILINE), "a charter says what is not here"


WATCH_IMPORTS = """
import importlib, os, sys, threading
checkout, prefixes = sys.argv[1], tuple(sys.argv[2].split(os.pathsep))
broken = []

def hook(event, arguments):
    if event in {"socket.connect", "socket.bind", "subprocess.Popen", "os.system", "os.exec", "os.fork"}:
        broken.append(f"{event} {arguments[1:2]}")
    elif event == "open" and isinstance(arguments[0], str):
        name, mode = arguments[0], arguments[1] or "r"
        ours = os.path.abspath(name).startswith(checkout + os.sep) and not os.path.abspath(name).startswith(prefixes)
        is_code = name.endswith((".py", ".pyc", ".so", ".dist-info", ".egg-info", "entry_points.txt"))
        if ("w" in mode or "a" in mode) and not name.endswith(".pyc") and "__pycache__" not in name:
            broken.append(f"open for writing {name}")
        elif ours and not is_code:
            broken.append(f"open {name}")

sys.dont_write_bytecode = True
sys.addaudithook(hook)
for name in sys.argv[3:]:
    before = len(broken)
    importlib.import_module(name)
    for what in broken[before:]:
        print(f"{name}: {what}")
print("threads:", [t.name for t in threading.enumerate() if t is not threading.main_thread()])
print("heavy:", sorted({"dagster", "mlflow", "evidently", "great_expectations", "fairlearn"} & set(sys.modules)))
"""


def test_importing_the_live_plane_opens_nothing_starts_nothing_and_loads_no_heavy_library():
    live = [module_name(path) for path in MODULES if not relative(path).startswith(DAGSTER_ROOMS)]
    answer = subprocess.run(
        [sys.executable, "-c", WATCH_IMPORTS, str(CHECKOUT), str(CHECKOUT / ".venv"), *live],
        env={"HOME": "/nonexistent", "VIGIL_DATA_DIR": "/nonexistent/data", "VIGIL_NATS_PORT": "not a port"},
        cwd="/", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert answer.stdout.splitlines() == ["threads: []", "heavy: []"]


def test_the_watch_over_imports_sees_what_it_should(tmp_path):
    (tmp_path / "naughty.py").write_text(
        "import socket\nopen('note.txt')\nsocket.socket().connect_ex(('127.0.0.1', 9))\n"
    )
    (tmp_path / "note.txt").write_text("")
    answer = subprocess.run(
        [sys.executable, "-c", WATCH_IMPORTS, str(tmp_path), str(CHECKOUT / ".venv"), "naughty"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "naughty: open note.txt" in answer.stdout
    assert "naughty: socket.connect" in answer.stdout


def test_the_command_answers_help_without_the_learning_plane():
    code = "import sys, orchestration.cli; print(sorted({'dagster', 'mlflow', 'psycopg', 'nats'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def tree() -> list[Path]:
    """Every text file that is ours: tracked, or not yet."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=CHECKOUT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    return [path for name in listed if (path := CHECKOUT / name).is_file()]


# Spelled in pieces, so that this file does not find itself.
ADDRESSES = re.compile(
    "|".join(
        [
            r"pypi\.(org|python)", r"files\.python" + "hosted", r"registry\.npm" + "js",
            r"(deb|security)\.deb" + r"ian\.org",
            r"--(extra-)?index" + r"-url\s+\S*:", r"find" + r"-links\s+\S*:", r"/opt/" + "(pypi|wheels)",
        ]
    )
)  # fmt: skip


def test_no_file_names_a_package_registry():
    found = []
    for path in tree():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{relative(path)}: {match[0]}" for match in ADDRESSES.finditer(text)]
    assert found == []


def test_the_lock_pins_every_package_with_hashes_and_covers_what_is_asked_for():
    lock = (CHECKOUT / "requirements.lock").read_text()
    entries = re.split(r"\n(?=[a-z0-9])", lock)
    pinned = {match[1] for entry in entries if (match := re.match(r"([a-z0-9-]+)(?:\[[a-z,]+\])?==", entry))}
    assert all("--hash=sha256:" in entry for entry in entries if "==" in entry.splitlines()[0])
    settings = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    asked = settings["dependencies"] + settings["optional-dependencies"]["dev"]
    names = {re.sub(r"[._]", "-", re.split(r"[\[<>=~;! ]", text, maxsplit=1)[0].lower()) for text in asked}
    assert names - pinned == set()


def test_files_that_the_rooms_read_are_packed_with_them():
    packed = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    data = {
        relative(path) for room in ROOMS for path in (CHECKOUT / room).rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc"}
    }  # fmt: skip
    covered = {
        relative(path)
        for package, patterns in packed.items()
        for pattern in patterns
        for path in (CHECKOUT / package).glob(pattern)
    }
    missing = {name for name in data if name not in covered and not any(name.startswith(f"{c}/") for c in covered)}
    assert missing == set()


def test_pip_installs_the_lock_without_resolving_it_again():
    # pip's resolver refuses hashed locks where one package is asked for with and without an extra (gql, pandas).
    lines = [line for line in (CHECKOUT / "Makefile").read_text().splitlines() if "-m pip install" in line]
    assert len(lines) == 3
    assert all("--no-deps" in line for line in lines)
