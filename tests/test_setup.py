"""What the set-up does where something is missing: whom it tells or asks what, and what it installs.

On a copy of the scripts with a PATH on which there is little. Package managers are scripts that
write down their calls.
"""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
THERE = (
    *("bash", "cat", "cut", "dirname", "env", "flock", "grep", "mktemp", "python3", "readlink", "rm", "sed", "setpriv"),
    *("sh", "sha256sum", "tail", "timeout"),
)
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
INSTALL = {
    "apt-get": "sudo apt-get install python3 python3-venv python3-dev fuse3 libfuse3-dev gcc libc6-dev pkg-config",
    "dnf": "sudo dnf install python3 python3-devel fuse3 fuse3-devel gcc pkgconf-pkg-config",
    "zypper": "sudo zypper install python3 python3-devel fuse3 fuse3-devel gcc pkg-config",
    "pacman": "sudo pacman -S --needed python fuse3 gcc pkgconf",
}
PACKAGES = INSTALL["apt-get"].removeprefix("sudo apt-get install ")

PYTEST = "pytest --numprocesses auto --maxprocesses 4 --dist worksteal"
"""How tests/run starts all tests."""


@pytest.fixture
def checkout() -> Iterator[Path]:
    """A copy that belongs to another user, if we can be one. Pytest's own directory is closed to others."""
    with tempfile.TemporaryDirectory() as directory:
        yield copied(Path(directory))


def copied(where: Path) -> Path:
    """Fill it with the scripts and a PATH."""
    for name in ("scripts", "pyproject.toml", "tests/run"):
        target = where / name
        target.parent.mkdir(exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, target)
    commands = where / "bin"
    commands.mkdir()
    for name in THERE:
        found = shutil.which(name, path="/usr/local/bin:/usr/bin:/bin")
        if found is None:
            pytest.skip(f"{name} is not where every user finds it")
        (commands / name).symlink_to(found)
    if os.geteuid() == 0:
        for path in (where, *where.rglob("*")):
            os.chown(path, 65534, 65534, follow_symlinks=False)
    return where


def environment_of(checkout: Path) -> dict[str, str]:
    return {"PATH": str(checkout / "bin"), "HOME": str(checkout)}


def set_up(checkout: Path) -> subprocess.CompletedProcess[str]:
    """tests/run as an ordinary user."""
    as_nobody = NOBODY if os.geteuid() == 0 else ()
    command = [*as_nobody, "bash", checkout / "tests/run"]
    return subprocess.run(command, env=environment_of(checkout), cwd="/", capture_output=True, text=True, check=False)


def stub(path: Path, script: str = "") -> None:
    """A command that writes its call down, see `calls`, and does what `script` says."""
    log = next(parent for parent in path.parents if (parent / "tests/run").exists()) / "calls"
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\necho "${{0##*/}} $*" >>{log}\n{script}\n')
    path.chmod(0o755)


def calls(checkout: Path) -> list[str]:
    """The calls of stubs."""
    log = checkout / "calls"
    return log.read_text().splitlines() if log.exists() else []


def installed(checkout: Path) -> list[str]:
    """What apt was asked to install, one entry for each call."""
    found = (line.partition("--no-install-recommends ") for line in calls(checkout) if line.startswith("apt-get"))
    return [packages for _, option, packages in found if option]


@pytest.mark.parametrize("manager", [*INSTALL, None])
def test_an_ordinary_user_is_told_the_command(checkout: Path, manager: str | None) -> None:
    if manager is not None:
        stub(checkout / "bin" / manager)
    done = set_up(checkout)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    missing, _, command = done.stderr.strip().partition("; install that first")
    assert "fusermount3, gcc, pkg-config, libfuse3's headers" in missing
    assert command == (f": {INSTALL[manager]}" if manager is not None else "")
    assert not (checkout / ".venv").exists()
    assert calls(checkout) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a checkout to another user")
def test_somebody_elses_checkout_that_is_not_set_up(checkout: Path) -> None:
    os.chown(checkout, 0, 0)
    checkout.chmod(0o755)
    done = set_up(checkout)
    assert done.returncode == 1
    assert (
        done.stderr
        == f"fakesysfs: {checkout} is not set up for user 65534, who may not write there: use a clone of your own\n"
    )


# The distribution's pyfuse3 ---------------------------------------------------------------------------------------

WITH_PYFUSE3 = "python3 python3-venv python3-pyfuse3 fuse3"


def stub_apt_cache(checkout: Path, candidate: str, condition: str = "true") -> None:
    """What apt would install of python3-pyfuse3; of other packages a version too."""
    stub(
        checkout / "bin/apt-cache",
        f"""
        {condition} || exit 0
        case $2 in
            python3-pyfuse3) echo '  Candidate: {candidate}' ;;
            *) echo '  Candidate: 1.0' ;;
        esac
        """,
    )


@pytest.mark.parametrize(
    ("candidate", "packages"),
    [
        ("3.4.0-3+b3", WITH_PYFUSE3),
        ("3.10.1-1", WITH_PYFUSE3),
        ("3.2.1-2+b2", PACKAGES),
        ("4.0.0-1", PACKAGES),
        ("(none)", PACKAGES),
    ],
)
def test_no_compiler_is_asked_for_where_apt_has_pyfuse3(checkout: Path, candidate: str, packages: str) -> None:
    """For apt's own python3: there is no other here."""
    (checkout / "bin/python3").unlink()
    stub(checkout / "bin/apt-get")
    stub_apt_cache(checkout, candidate)
    done = set_up(checkout)
    assert done.returncode == 1
    assert done.stderr.strip().partition("; install that first: ")[2] == f"sudo apt-get install {packages}"


def shell(checkout: Path, script: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    """A script that has the set-up's functions; $1 is the checkout."""
    command: list[str | Path] = ["bash", "-euc", f'. "$1/scripts/setup.sh"\n{script}', "bash", checkout, *arguments]
    return subprocess.run(
        command, env=environment_of(checkout), cwd="/", capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def system(checkout: Path) -> Path:
    """The packages of a Python that has a pyfuse3, below a checkout with a .venv."""
    shutil.copytree(ROOT / "fakesysfs", checkout / "fakesysfs", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", checkout / ".venv"], check=True)
    (checkout / "bin/find").symlink_to(shutil.which("find") or "find")
    (checkout / "bin/ln").symlink_to(shutil.which("ln") or "ln")
    packages = checkout / "packages"
    packages.mkdir()
    python = checkout / "bin/system-python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH=$PYTHONPATH:{packages} exec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    return packages


def add_pyfuse3(packages: Path, version: str) -> None:
    """As Debian's package has it."""
    (packages / "pyfuse3").mkdir()
    (packages / "pyfuse3/__init__.py").write_text(f"__version__ = {version!r}")
    (packages / f"pyfuse3-{version}.egg-info").mkdir()
    (packages / "pyfuse3_asyncio.py").touch()
    (packages / "pytest_of_the_system.py").touch()


def links(checkout: Path) -> list[str]:
    """What the .venv links to."""
    (site,) = checkout.glob(".venv/lib/python3*/site-packages")
    return sorted(path.name for path in site.iterdir() if path.is_symlink())


LINK = "python=system-python; link_pyfuse3"


def test_a_pyfuse3_of_the_system_is_linked_and_nothing_else(checkout: Path, system: Path) -> None:
    add_pyfuse3(system, "3.4.0")
    done = shell(checkout, f"{LINK}; {LINK}; pyfuse3_links_lead_somewhere")
    assert (done.returncode, done.stderr) == (0, ""), "twice, as in a second set-up"
    assert links(checkout) == ["pyfuse3", "pyfuse3-3.4.0.egg-info", "pyfuse3_asyncio.py"]
    script = "import pyfuse3; print(pyfuse3.__version__)"
    done = subprocess.run([checkout / ".venv/bin/python", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "3.4.0\n"


@pytest.mark.parametrize("version", ["3.2.1", "4.0.0", None])
def test_a_pyfuse3_that_does_not_fit_is_not_linked(checkout: Path, system: Path, version: str | None) -> None:
    if version is not None:
        add_pyfuse3(system, version)
    assert shell(checkout, LINK).returncode == 1
    assert links(checkout) == []


def test_an_update_of_the_systems_pyfuse3_makes_the_set_up_run_again(checkout: Path, system: Path) -> None:
    add_pyfuse3(system, "3.4.0")
    shell(checkout, LINK)
    (system / "pyfuse3-3.4.0.egg-info").rename(system / "pyfuse3-3.5.0.egg-info")
    assert shell(checkout, "pyfuse3_links_lead_somewhere").returncode == 1
    assert shell(checkout, LINK).returncode == 0
    assert links(checkout) == ["pyfuse3", "pyfuse3-3.5.0.egg-info", "pyfuse3_asyncio.py"]
    shutil.rmtree(system)
    assert shell(checkout, LINK).returncode == 1
    assert links(checkout) == [], "pip compiles it then"


# Root -------------------------------------------------------------------------------------------------------------

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root installs packages")


@pytest.fixture
def apt_checkout(checkout: Path) -> Path:
    """On a system with apt; it brings nothing."""
    stub(checkout / "bin" / "apt-get")
    return checkout


def on_a_terminal(checkout: Path, answer: str, **environment: str) -> tuple[int, str]:
    """The status and the output of tests/run where `answer` is typed."""
    here, there = pty.openpty()
    try:
        with subprocess.Popen(
            ["bash", checkout / "tests/run"],
            env=environment_of(checkout) | environment,
            cwd="/",
            stdin=there,
            stdout=there,
            stderr=there,
            start_new_session=True,
        ) as process:
            os.close(there)
            os.write(here, answer.encode())
            output = b""
            while part := read_terminal(here):
                output += part
        return process.returncode, output.decode().replace("\r\n", "\n")
    finally:
        os.close(here)


def read_terminal(descriptor: int) -> bytes:
    """Empty at the end, which Linux reports as EIO."""
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return b""


@only_root
def test_root_without_a_terminal_installs(apt_checkout: Path) -> None:
    done = subprocess.run(
        ["bash", apt_checkout / "tests/run"],
        env=environment_of(apt_checkout),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert set(installed(apt_checkout)) == {PACKAGES}


@only_root
def test_empty_lists_are_filled_before_packages_are_chosen(checkout: Path) -> None:
    """Images of containers have none."""
    (checkout / "bin/python3").unlink()
    (checkout / "bin/touch").symlink_to(shutil.which("touch") or "touch")
    lists = checkout / "lists"
    stub(checkout / "bin/apt-get", f'case "$*" in *update) touch {lists} ;; esac')
    stub_apt_cache(checkout, "3.4.0-3+b3", f"[ -e {lists} ]")
    subprocess.run(
        ["bash", checkout / "tests/run"],
        env=environment_of(checkout), stdin=subprocess.DEVNULL, capture_output=True, check=False,
    )  # fmt: skip
    assert set(installed(checkout)) == {WITH_PYFUSE3}
    assert len([call for call in calls(checkout) if call.startswith("apt-get") and call.endswith("update")]) == 1


@only_root
@pytest.mark.parametrize("answer", ["\n", "n\n", "\4"])
def test_on_a_terminal_nothing_is_installed_unasked(apt_checkout: Path, answer: str) -> None:
    status, output = on_a_terminal(apt_checkout, answer)
    assert status == 1
    assert output.count(f"install with apt: {PACKAGES}? [y/N] ") == 1
    assert output.endswith(f"install that first: apt-get install {PACKAGES}\n")
    assert calls(apt_checkout) == []


@only_root
def test_on_a_terminal_root_may_say_yes(apt_checkout: Path) -> None:
    status, _ = on_a_terminal(apt_checkout, "y\ny\n")
    assert status == 1
    assert set(installed(apt_checkout)) == {PACKAGES}


@only_root
def test_continuous_integration_is_not_asked(apt_checkout: Path) -> None:
    """Some services give a terminal to their jobs."""
    _, output = on_a_terminal(apt_checkout, "", CI="true")
    assert "[y/N]" not in output
    assert set(installed(apt_checkout)) == {PACKAGES}


# tests/run, set up ------------------------------------------------------------------------------------------------


@pytest.fixture
def ready(apt_checkout: Path) -> Path:
    """A checkout that is set up, on a system without the tools that tests start."""
    for name in ("pytest", "ruff", "mypy", "basedpyright"):
        stub(apt_checkout / ".venv/bin" / name)
    stub(apt_checkout / "bin/fusermount3")
    for name in ("fetch_tools.sh", "shellcheck.sh"):
        stub(apt_checkout / "scripts" / name)
    (apt_checkout / ".venv/bin/python").symlink_to(apt_checkout / "bin/python3")
    stamps = """
    . "$1/scripts/setup.sh"
    for what in base test; do stamp_now >"$1/.venv/.set-up-$what"; done
    """
    subprocess.run(
        ["bash", "-euc", stamps, "bash", apt_checkout], env=environment_of(apt_checkout), check=True, cwd="/"
    )
    return apt_checkout


def run_tests(checkout: Path, *arguments: str) -> None:
    """tests/run, without a terminal."""
    command = ["bash", str(checkout / "tests/run"), *arguments]
    subprocess.run(
        command, env=environment_of(checkout), stdin=subprocess.DEVNULL, capture_output=True, check=True, cwd="/"
    )


def test_a_link_to_a_pyfuse3_that_is_gone(ready: Path) -> None:
    """The set-up runs again."""
    assert shell(ready, "is_set_up test").returncode == 0
    site = ready / ".venv/lib/python3.13/site-packages"
    site.mkdir(parents=True)
    (site / "pyfuse3").symlink_to(ready / "nowhere")
    assert shell(ready, "is_set_up test").returncode == 1


@only_root
def test_all_tests_are_given_their_tools(ready: Path) -> None:
    run_tests(ready)
    (packages,) = installed(ready)
    assert {"daxctl", "numactl", "procps", "udev", "util-linux"} <= set(packages.split())
    checks = ["ruff format --check", "ruff check", "mypy ", "basedpyright ", "shellcheck.sh ", PYTEST]
    assert calls(ready)[-7:] == ["fetch_tools.sh ", *checks]


@only_root
def test_types_are_not_checked_against_those_of_pyfuse3_3_4(ready: Path) -> None:
    (ready / ".venv/lib/python3.13/site-packages/pyfuse3-3.4.0.egg-info").mkdir(parents=True)
    run_tests(ready)
    assert "mypy " not in calls(ready)
    assert {"ruff check", "basedpyright ", PYTEST} <= set(calls(ready))


def test_one_test_installs_and_fetches_nothing(ready: Path) -> None:
    run_tests(ready, "tests/test_x.py", "-k", "y")
    assert calls(ready) == ["pytest tests/test_x.py -k y"]


@only_root
def test_on_a_terminal_the_tests_go_on_without_the_tools(ready: Path) -> None:
    status, output = on_a_terminal(ready, "n\n")
    assert status == 0
    assert "skipping the tests that start daxctl, ndctl, numactl," in output
    assert installed(ready) == []
    assert calls(ready)[-1] == PYTEST
