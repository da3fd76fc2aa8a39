"""Debian packages, unpacked into a folder and never installed.

An index (`Packages`) is trusted where Debian's keys signed the suite's InRelease, and a package
where its SHA256 is that of the index. Downloads go over http, as apt's do.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import functools
import hashlib
import http.client
import lzma
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
DEFAULT_MIRROR = "http://deb.debian.org/debian"
ARCHITECTURE = "amd64"
TIMEOUT_SECONDS = 30
_CHUNK = 1 << 18


class LabError(Exception):
    """The lab cannot do this here. The text says why, and what to do."""


# Versions ---------------------------------------------------------------------------------------------------------


def version_key(version: str) -> tuple[object, ...]:
    """A key that sorts versions as dpkg does (deb-version(7)): `~` before the end, letters before the rest."""
    epoch, _, rest = version.rpartition(":") if ":" in version else ("0", "", version)
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "")
    return int(epoch), _part_key(upstream), _part_key(revision)


def _part_key(text: str) -> tuple[tuple[tuple[int, ...], int], ...]:
    parts = []
    for letters, digits in re.findall(r"(\D*)(\d*)", text):
        ranks = [-1 if letter == "~" else ord(letter) if letter.isalpha() else ord(letter) + 256 for letter in letters]
        parts.append(((*ranks, 0), int(digits or 0)))
    return tuple(parts)


# Indices ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Package:
    """One entry of an index."""

    name: str
    version: str
    suite: str
    path: str
    """Below the mirror."""
    size: int
    sha256: str
    depends: tuple[tuple[str, ...], ...]
    """The names of each dependency's alternatives, `Pre-Depends` included. Versions are left out: one suite fits."""

    def __str__(self) -> str:
        return f"{self.name} {self.version} of Debian {self.suite}"


def parse_entry(paragraph: str, suite: str) -> Package:
    """One entry of a `Packages` file."""
    fields = dict(line.split(": ", 1) for line in paragraph.split("\n") if ": " in line and not line.startswith(" "))
    depends = ", ".join(fields[key] for key in ("Pre-Depends", "Depends") if key in fields)
    return Package(
        fields["Package"],
        fields["Version"],
        suite,
        fields["Filename"],
        int(fields["Size"]),
        fields["SHA256"],
        tuple(tuple(map(_name, alternatives.split("|"))) for alternatives in _listed(depends)),
    )


def _listed(text: str) -> list[str]:
    return [part for part in text.split(", ") if part]


def _name(relation: str) -> str:
    return re.split(r"[ (:]", relation.strip(), maxsplit=1)[0]


class Index:
    """The packages of one suite. Entries are parsed when they are asked for: an index has 75,000."""

    def __init__(self, text: str, suite: str) -> None:
        """`text`: a `Packages` file."""
        self._text = text
        self._suite = suite
        self._starts: dict[str, list[int]] = {}
        for found in re.finditer(r"^Package: (.+)$", text, re.MULTILINE):
            self._starts.setdefault(found[1], []).append(found.start())
        self._providers: dict[str, str] = {}
        for found in re.finditer(r"^Provides: (.+)$", text, re.MULTILINE):
            start = text.rindex("Package: ", 0, found.start())
            provider = text[start + len("Package: ") : text.index("\n", start)]
            for name in map(_name, _listed(found[1])):
                self._providers.setdefault(name, provider)

    @property
    def names(self) -> list[str]:
        """The names of all packages."""
        return list(self._starts)

    def find(self, name: str) -> Package | None:
        """The newest package of a name, or else one that provides it, or None."""
        if name not in self._starts:
            provider = self._providers.get(name)
            return self.find(provider) if provider in self._starts else None
        found = [parse_entry(self._paragraph(start), self._suite) for start in self._starts[name]]
        return max(found, key=lambda package: version_key(package.version))

    def _paragraph(self, start: int) -> str:
        end = self._text.find("\n\n", start)
        return self._text[start : end if end >= 0 else len(self._text)]

    def with_dependencies(self, names: Iterable[str], without: frozenset[str] = frozenset()) -> list[Package]:
        """Packages and all that they depend on, the first alternative of each that the suite has.

        `without`: names that are left out, with what only they need. Raises LabError.
        """
        found: dict[str, Package] = {}
        wanted: list[tuple[str, ...]] = [(name,) for name in names]
        while wanted:
            alternatives = wanted.pop()
            if without.intersection(alternatives):
                continue
            package = next(filter(None, map(self.find, alternatives)), None)
            if package is None:
                raise LabError(f"Debian's index has no package {' or '.join(alternatives)}")
            if package.name not in found:
                found[package.name] = package
                wanted += package.depends
        return sorted(found.values(), key=lambda package: package.name)


# The archive ------------------------------------------------------------------------------------------------------

Say = Callable[[str], None]


def say(text: str) -> None:
    """Print a line for the user on standard error."""
    print(f"fakesysfs: {text}", file=sys.stderr, flush=True)  # noqa: T201  what a command does


class Archive:
    """A mirror of Debian's archive."""

    def __init__(self, mirror: str | None = None) -> None:
        self.mirror = mirror or find_mirror()
        self._indices: dict[str, Index] = {}

    def index(self, suite: str) -> Index:
        """The index of a suite's main component, verified. Read once. Raises LabError."""
        if suite not in self._indices:
            say(f"reading the index of Debian {suite} at {self.mirror}")
            release = _signed_text(self._get(f"dists/{suite}/InRelease"), f"{self.mirror} {suite}")
            _check_release(release, suite)
            name = f"main/binary-{ARCHITECTURE}/Packages.xz"
            found = re.search(rf"^ ([0-9a-f]{{64}}) +\d+ {re.escape(name)}$", release, re.MULTILINE)
            if found is None:
                raise LabError(f"the InRelease of Debian {suite} does not name {name}: choose another mirror")
            compressed = self._get(f"dists/{suite}/{name}")
            _check(hashlib.sha256(compressed).hexdigest(), found[1], f"{name} of Debian {suite}")
            self._indices[suite] = Index(lzma.decompress(compressed).decode("utf-8", "replace"), suite)
        return self._indices[suite]

    def _get(self, path: str) -> bytes:
        return b"".join(self._read(path))

    def _read(self, path: str) -> Iterator[bytes]:
        """The parts of a file of the mirror. Raises LabError."""
        url = f"{self.mirror}/{path}"
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310  http
                missing = int(answer.headers.get("Content-Length", 0))
                while part := answer.read(_CHUNK):
                    missing -= len(part)
                    yield part
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)).strip() or type(error).__name__
            raise LabError(f"{url} cannot be read: {reason}: try again, or choose another mirror") from None
        if missing > 0:
            raise LabError(f"{url} ends {missing} bytes too early: try again, or choose another mirror")

    def unpack(self, packages: Iterable[Package], folder: Path) -> None:
        """Download packages, check their SHA256, and unpack them into a new folder.

        The folder is there only when all of it is. Raises LabError.
        """
        if shutil.which("dpkg-deb") is None:
            raise LabError("dpkg-deb is missing: install the package dpkg")
        packages = list(packages)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="fetching.", dir=folder.parent) as work:
            root = Path(work, "root")
            total = sum(package.size for package in packages)
            with Progress(f"{folder.name}: {len(packages)} packages", total) as progress:
                for package in packages:
                    file = Path(work, "package.deb")
                    self._download(package, file, progress)
                    _unpack(file, root)
            try:
                root.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process was faster
                    raise

    def _download(self, package: Package, file: Path, progress: Progress) -> None:
        digest = hashlib.sha256()
        with file.open("wb") as out:
            for part in self._read(package.path):
                out.write(part)
                digest.update(part)
                progress.add(len(part))
        _check(digest.hexdigest(), package.sha256, str(package))


def _unpack(file: Path, root: Path) -> None:
    done = subprocess.run(["dpkg-deb", "-x", file, root], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"dpkg-deb failed: {done.stderr.strip()}")


def _check(got: str, expected: str, what: str) -> None:
    if got != expected:
        raise LabError(f"{what}: the SHA256 is {got}, expected {expected}: try again, or choose another mirror")


def _signed_text(signed: bytes, what: str) -> str:
    """The text of a signed InRelease, without its signature. Raises LabError."""
    if shutil.which("gpgv") is None:
        raise LabError("gpgv is missing: install the package gpgv")
    if not KEYS.is_file():
        raise LabError(f"{KEYS} is missing: install the package debian-archive-keyring")
    with tempfile.TemporaryDirectory() as work:
        text = Path(work, "InRelease")
        command = ["gpgv", "--keyring", str(KEYS), "--status-fd", "1", "--output", str(text)]
        done = subprocess.run(command, input=signed, capture_output=True, check=False)
        # the exit status is not 0 if one signer of several is unknown
        status = set(re.findall(r"^\[GNUPG:\] (\w+)", done.stdout.decode(errors="replace"), re.MULTILINE))
        if {"GOODSIG", "VALIDSIG"} <= status and not status & {"BADSIG", "ERROR"}:
            return text.read_text(encoding="utf-8", errors="replace")
    last = done.stderr.decode(errors="replace").strip().split("\n")[-1]
    raise LabError(f"the signature of {what} cannot be verified: {last}")


def _check_release(release: str, suite: str) -> None:
    """Refuse the InRelease of another suite, and one that has expired. Raises LabError."""
    fields = dict(re.findall(r"^([\w-]+): *(.*)$", release, re.MULTILINE))
    names = [fields[key] for key in ("Suite", "Codename") if key in fields]
    if suite not in names:
        raise LabError(f"the mirror has {' or '.join(names) or 'no suite'} as Debian {suite}: choose another mirror")
    until = fields.get("Valid-Until")
    if until is None or not _checks_valid_until():
        return
    try:
        end = email.utils.parsedate_to_datetime(until).replace(tzinfo=dt.UTC)
    except ValueError:
        raise LabError(f"the InRelease of Debian {suite} is valid until {until!r}: choose another mirror") from None
    if end < dt.datetime.now(dt.UTC):
        raise LabError(
            f"the InRelease of Debian {suite} has expired ({until}): choose another mirror, or let apt accept it "
            '(Acquire::Check-Valid-Until "false")'
        )


@functools.cache
def _checks_valid_until() -> bool:
    """Whether apt refuses expired indices here. It does not where the mirror is a snapshot."""
    if shutil.which("apt-config") is None:
        return True
    command = ["apt-config", "shell", "answer", "Acquire::Check-Valid-Until/b"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "false" not in done.stdout


@functools.cache
def find_mirror() -> str:
    """The mirror of Debian that apt uses here, or Debian's own."""
    if shutil.which("apt-get"):
        form = "$(ORIGIN)|$(LABEL)|$(SITE)"
        command = ["apt-get", "indextargets", "--format", form, "Created-By: Packages", "Component: main"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        # security, backports and ports have labels of their own, and no suite that the lab reads
        main = "Debian|Debian|"
        sites = sorted(line.removeprefix(main) for line in done.stdout.split("\n") if line.startswith(f"{main}http"))
        if sites:
            return sites[0].rstrip("/")
    return DEFAULT_MIRROR


class Progress:
    """How much is downloaded: a line that changes on a terminal, else one line at the start."""

    def __init__(self, what: str, total: int) -> None:
        self.what = what
        self.total = total
        self.done = 0
        self._shown = -1
        self._live = sys.stderr.isatty()

    def __enter__(self) -> Self:
        if not self._live:
            say(f"fetching {self.what}, {self.total / 1e6:.0f} MB")
        return self

    def add(self, count: int) -> None:
        """Count some bytes more."""
        self.done += count
        percent = 100 * self.done // max(self.total, 1)
        if self._live and percent != self._shown:
            self._shown = percent
            sys.stderr.write(f"\rfakesysfs: fetching {self.what}, {self.total / 1e6:.0f} MB: {percent} %")
            sys.stderr.flush()

    def __exit__(self, *_: object) -> None:
        if self._live:
            sys.stderr.write("\n")


def cache_folder() -> Path:
    """The folder of the lab in the user's cache: $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "fakesysfs", "lab")
