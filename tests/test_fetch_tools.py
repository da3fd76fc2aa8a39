"""scripts/fetch_tools.sh, with the real apt and a Debian archive in a folder.

Each package in the archive has a program of its name, and brings a C library's loader with it. Both
are scripts of sh.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fakesysfs.replay.daxctl_versions import search_path

ROOT = Path(__file__).parents[1]
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SYSTEM_SUITE = "bookworm"
"""It is always there: apt's lists may be links into the archive."""
ASKS = {"cxl": "version", "daxctl": "--version"}
"""What asks a program for its version."""
NEEDED = ("apt-get", "apt-cache", "dpkg-deb", "dpkg")

pytestmark = [
    pytest.mark.tools,
    pytest.mark.skipif(
        not all(map(shutil.which, NEEDED)) or not KEYS.exists(), reason="only Debian has apt and its archive's keys"
    ),
]


@dataclass
class Archive:
    """A Debian archive in a folder, a system that uses it, and a cache folder to fetch into."""

    where: Path
    commands: list[str] = field(default_factory=list)

    @property
    def cache(self) -> Path:
        """The folder that the script fills."""
        return self.where / "cache" / "fakesysfs"

    @property
    def stamp(self) -> Path:
        """Tells when the last attempt at daxctl 85 failed."""
        return self.cache / "daxctl-85-missing"

    def fill(self, suites: Mapping[str, Sequence[str]]) -> None:
        """Replace the archive: a suite's name and the packages in it, such as `daxctl-85`."""
        shutil.rmtree(self.where / "archive", ignore_errors=True)
        for suite, packages in {SYSTEM_SUITE: ["daxctl-0"], **suites}.items():
            self._suite(suite, [self._package(package) for package in packages])

    def _package(self, full_name: str) -> Path:
        tool, version = full_name.split("-")
        tree = self.where / f"tree-{full_name}"
        shutil.rmtree(tree, ignore_errors=True)
        for name, text in (
            (f"usr/bin/{tool}", f"[ $1 = {ASKS[tool]} ] && echo {version}"),
            ("lib/ld-linux-fake.so.2", 'while [ "$1" != "${1#--}" ]; do shift 2; done; exec "$@"'),
        ):
            (tree / name).parent.mkdir(parents=True)
            (tree / name).write_text(f"#!/bin/sh\n{text}\n")
            (tree / name).chmod(0o755)
        control = tree / "DEBIAN" / "control"
        control.parent.mkdir()
        control.write_text(
            f"Package: {tool}\nVersion: {version}-1\nArchitecture: all\nMaintainer: a test\nDescription: fake\n"
        )
        package = self.where / "archive" / f"{full_name}.deb"
        package.parent.mkdir(exist_ok=True)
        subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, package], check=True, capture_output=True)
        return package

    def _suite(self, suite: str, packages: list[Path]) -> None:
        entries = [
            subprocess.run(["dpkg-deb", "-f", package], check=True, capture_output=True, text=True).stdout
            + f"Filename: {package.name}\nSize: {package.stat().st_size}\nSHA256: {_sha256(package)}\n"
            for package in packages
        ]
        architecture = subprocess.run(["dpkg", "--print-architecture"], check=True, capture_output=True, text=True)
        index = Path("main", f"binary-{architecture.stdout.strip()}", "Packages")
        suite_folder = self.where / "archive" / "dists" / suite
        (suite_folder / index).parent.mkdir(parents=True)
        (suite_folder / index).write_text("\n".join(entries))
        (suite_folder / "Release").write_text(
            f"Origin: Debian\nSuite: {suite}\nCodename: {suite}\nComponents: main\n"
            f"Architectures: all {architecture.stdout.strip()}\nDate: Sat, 28 Nov 2026 00:00:00 UTC\n"
            f"SHA256:\n {_sha256(suite_folder / index)} {(suite_folder / index).stat().st_size} {index}\n"
        )

    def fetch(self, *tools: str) -> subprocess.CompletedProcess[str]:
        """Run the script; `commands` are the calls of apt-get that it made."""
        log = self.where / "commands"
        log.write_text("")
        done = subprocess.run(
            [ROOT / "scripts" / "fetch_tools.sh", *tools],
            env={
                **os.environ,
                "APT_CONFIG": str(self.where / "apt.conf"),
                "PATH": f"{self.where}/bin:{search_path()}",
                "XDG_CACHE_HOME": str(self.where / "cache"),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        self.commands = log.read_text().splitlines()
        assert not list(self.cache.glob("fetching.*"))
        return done

    def fetched(self) -> dict[str, str]:
        """The folders in the cache, and the version that the program in each prints."""
        return {
            program.parents[1].name: subprocess.run(
                [program, ASKS[program.name]], capture_output=True, text=True, check=False
            ).stdout.strip()
            for program in self.cache.glob("*/bin/*")
        }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """An archive without any suite that the script reads, and a system with daxctl 1.0."""
    made = Archive(tmp_path)
    for folder in ("bin", "lists/partial", "archive"):
        (tmp_path / folder).mkdir(parents=True)
    for name, text in (
        ("apt-get", f'echo "$@" >>{tmp_path}/commands; exec {shutil.which("apt-get")} "$@"'),
        ("daxctl", "echo 1.0"),
    ):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "sources.list").write_text(f"deb [trusted=yes] file:{tmp_path}/archive {SYSTEM_SUITE} main\n")
    # the archive is not signed
    (tmp_path / "apt.conf").write_text(f"""
        Dir::Etc::SourceList "{tmp_path}/sources.list";
        Dir::Etc::SourceParts "/dev/null";
        Dir::State::Lists "{tmp_path}/lists";
        Acquire::AllowInsecureRepositories "true";
        APT::Get::AllowUnauthenticated "true";
        APT::Sandbox::User "root";
    """)
    made.fill({})
    subprocess.run(
        ["apt-get", "update"],
        env={**os.environ, "APT_CONFIG": str(tmp_path / "apt.conf")},
        check=True,
        capture_output=True,
    )
    return made


@pytest.mark.parametrize("suite", ["unstable", "testing", "stable", "oldstable"])
def test_the_wanted_version_is_fetched_from_the_suite_that_has_it(archive: Archive, suite: str) -> None:
    """A newer one beside it does not matter, neither in the same suite nor in another."""
    archive.fill({"unstable": ["daxctl-87"]} | {suite: ["daxctl-85", "daxctl-86"]})
    done = archive.fetch("daxctl-85")
    assert done.returncode == 0, done.stderr
    assert archive.fetched() == {"daxctl-85": "85"}
    assert not archive.stamp.exists()
    assert archive.fetch("daxctl-85").stderr == ""
    assert archive.commands == []


def test_several_versions_are_fetched_from_several_suites(archive: Archive) -> None:
    archive.fill({"unstable": ["daxctl-85"], "testing": ["daxctl-81"], "oldstable": ["daxctl-76.1"]})
    done = archive.fetch("daxctl-85", "daxctl-76.1")
    assert done.returncode == 0, done.stderr
    assert archive.fetched() == {"daxctl-85": "85", "daxctl-76.1": "76.1"}


def test_another_tool_is_fetched_beside_it(archive: Archive) -> None:
    """Each tool has its own versions: daxctl has an 86 here, and cxl has not."""
    archive.fill({"unstable": ["cxl-85", "daxctl-86"], "stable": ["daxctl-85"]})
    done = archive.fetch("daxctl-85", "cxl-85")
    assert done.returncode == 0, done.stderr
    assert archive.fetched() == {"daxctl-85": "85", "cxl-85": "85"}
    assert "cxl 86 is not in the archive and neither is a newer one (found: 85)" in archive.fetch("cxl-86").stderr
    assert archive.fetched() == {"daxctl-85": "85", "cxl-85": "85"}


def test_the_installed_version_is_not_fetched(archive: Archive) -> None:
    archive.fill({"unstable": ["daxctl-1.0"]})
    assert archive.fetch("daxctl-1.0").returncode == 0
    assert archive.fetched() == {}
    assert archive.commands == []


def test_where_the_archive_has_newer_ones_only_the_next_one_is_fetched(archive: Archive) -> None:
    """It stands in. The wanted one is looked for again after a day, and not before."""
    archive.fill({"unstable": ["daxctl-88"], "testing": ["daxctl-86.1"], "stable": ["daxctl-81"]})
    done = archive.fetch("daxctl-85")
    assert done.returncode == 1
    assert "daxctl 85 is not in the archive: 86.1 stands in for it" in done.stderr
    assert archive.fetched() == {"daxctl-86.1": "86.1"}
    archive.fill({"unstable": ["daxctl-85"]})
    assert "less than a day ago" in archive.fetch("daxctl-85").stderr
    assert archive.commands == []
    a_day_later(archive)
    assert archive.fetch("daxctl-85").returncode == 0
    assert archive.fetched() == {"daxctl-86.1": "86.1", "daxctl-85": "85"}


def test_where_the_archive_has_older_ones_only_nothing_is_fetched(archive: Archive) -> None:
    """The installed one stands in."""
    archive.fill({"unstable": ["daxctl-81"], "stable": ["daxctl-79"]})
    done = archive.fetch("daxctl-85")
    assert done.returncode == 1
    assert "daxctl 85 is not in the archive and neither is a newer one (found: 79 81)" in done.stderr
    assert archive.fetched() == {}


def test_a_failure_is_not_tried_again_for_a_day(archive: Archive) -> None:
    archive.fill({})
    done = archive.fetch("daxctl-85")
    assert done.returncode == 1
    assert f"no suite of file:{archive.where}/archive can be read" in done.stderr
    assert any(" update " in line for line in archive.commands)
    archive.fill({"unstable": ["daxctl-85"]})
    done = archive.fetch("daxctl-85")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"fakesysfs: daxctl 85: the last attempt to fetch it failed less than a day ago; rm {archive.stamp} to try now"
    ]
    assert archive.commands == []
    a_day_later(archive)
    assert archive.fetch("daxctl-85").returncode == 0
    assert archive.fetched() == {"daxctl-85": "85"}
    assert not archive.stamp.exists()


def test_a_failure_for_one_version_is_none_for_another(archive: Archive) -> None:
    archive.fill({"unstable": ["daxctl-85"]})
    assert archive.fetch("daxctl-84").returncode == 1
    assert archive.fetched() == {"daxctl-85": "85"}
    assert archive.fetch("daxctl-84", "daxctl-85").returncode == 1
    assert archive.commands == []
    archive.fill({"unstable": ["daxctl-83", "daxctl-85"]})
    assert archive.fetch("daxctl-84", "daxctl-83").returncode == 1
    assert archive.fetched() == {"daxctl-85": "85", "daxctl-83": "83"}


def test_a_package_that_cannot_be_downloaded_is_a_failure(archive: Archive) -> None:
    archive.fill({"unstable": ["daxctl-85"]})
    (archive.where / "archive" / "daxctl-85.deb").unlink()
    done = archive.fetch("daxctl-85")
    assert done.returncode == 1
    assert "apt-get download failed" in done.stderr
    assert archive.fetched() == {}
    assert archive.stamp.exists()


def a_day_later(archive: Archive) -> None:
    """Make the stamp as old as that."""
    yesterday = archive.stamp.stat().st_mtime - 25 * 3600
    os.utime(archive.stamp, (yesterday, yesterday))
