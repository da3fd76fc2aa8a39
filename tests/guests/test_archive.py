"""Debian packages: versions, indices, dependencies, and what is refused."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import itertools
import lzma
import shutil
import socketserver
import subprocess
import threading
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

from fakesysfs.lab import archive, images
from fakesysfs.lab.archive import Archive, Index, LabError, Package, version_key

INDEX = """\
Package: linux-binary-7.3-amd64
Version: 7.3~rc7-1~exp1
Depends: linux-base-7.3-amd64 (= 7.3~rc7-1~exp1)
Description: Linux 7.3-rc7 for 64-bit PCs
 a line: with a colon
Filename: pool/b.deb
Size: 12
SHA256: aa

Package: tool
Version: 1.10-1
Pre-Depends: libc6 (>= 2.43)
Depends: missing | virtual, other:any (>= 1)
Filename: pool/t10.deb
Size: 3
SHA256: bb

Package: tool
Version: 1.9-1
Filename: pool/t9.deb
Size: 3
SHA256: cc

Package: libc6
Version: 2.43-1
Filename: pool/c.deb
Size: 1
SHA256: dd

Package: real
Version: 1
Provides: virtual (= 1), unused
Depends: tool
Filename: pool/r.deb
Size: 1
SHA256: ee

Package: other
Version: 1
Depends: unwanted
Filename: pool/o.deb
Size: 1
SHA256: ff

Package: unwanted
Version: 1
Depends: nowhere
Filename: pool/u.deb
Size: 1
SHA256: 00
"""


def test_versions_sort_as_dpkg_sorts_them() -> None:
    ordered = [
        "7.2.9-1",
        "7.2.13-1",
        "7.3~rc1-1~exp1",
        "7.3~rc7-1~exp1",
        "7.3-1",
        "7.3-2",
        "7.3.1-1",
        "1:0-1",
        "1:0+b1",
    ]
    for one, other in itertools.pairwise(ordered):
        assert version_key(one) < version_key(other), (one, other)


def test_an_index_has_the_newest_of_each_name() -> None:
    index = Index(INDEX, "unstable")
    tool = index.find("tool")
    assert tool is not None
    assert (tool.version, tool.path, tool.size, tool.sha256, tool.suite) == (
        "1.10-1",
        "pool/t10.deb",
        3,
        "bb",
        "unstable",
    )
    assert tool.depends == (("libc6",), ("missing", "virtual"), ("other",))
    assert index.find("nothing") is None


def test_dependencies_are_followed_through_what_packages_provide() -> None:
    index = Index(INDEX, "unstable")
    found = index.with_dependencies(["tool"], without=frozenset({"unwanted"}))
    assert [package.name for package in found] == ["libc6", "other", "real", "tool"]
    with pytest.raises(LabError, match="no package nowhere"):
        index.with_dependencies(["tool"])


class Suites(Archive):
    """An archive with given indices."""

    def __init__(self, **texts: str) -> None:
        super().__init__("file:///nowhere")
        self._indices = {suite: Index(text, suite) for suite, text in texts.items()}


def _kernel(series: str, version: str) -> str:
    return "\n".join(
        f"Package: linux-{part}-{series}-amd64\nVersion: {version}\nFilename: {part}\nSize: 1\nSHA256: 0\n"
        for part in ("binary", "modules")
    )


def test_the_newest_kernel_of_a_series_is_taken_from_either_suite() -> None:
    mirror = Suites(
        unstable="\n".join(
            _kernel(series, version)
            for series, version in (("7.2.9+deb14", "7.2.9-1"), ("7.2.13+deb14", "7.2.13-1"), ("7.25", "7.25-1"))
        ),
        experimental=f"{_kernel('7.3', '7.3~rc7-1~exp1')}\n{_kernel('7.3-cloud', '7.3-9')}",
    )
    assert images.newest_kernel(mirror, "7.2")[0].version == "7.2.13-1"
    assert [package.name for package in images.newest_kernel(mirror, "7.3")] == [
        "linux-binary-7.3-amd64",
        "linux-modules-7.3-amd64",
    ]
    with pytest.raises(LabError, match=r"no kernel 7\.4"):
        images.newest_kernel(mirror, "7.4")


def test_unpacked_kernels_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for version in ("7.3~rc7-1", "7.3~rc10-1", "7.2.13-1"):
        folder = archive.cache_folder() / "kernels" / version / "usr/lib/modules/7.3-amd64"
        folder.mkdir(parents=True)
        (folder / "vmlinuz").touch()
    monkeypatch.setattr(images, "_archive", None)  # a look at the archive fails
    image = images.kernel_image("7.3")
    assert (image.version, image.release, image.series) == ("7.3~rc10-1", "7.3-amd64", "7.3")
    assert image.vmlinuz.is_file()
    with pytest.raises(LabError, match=r"no vmlinuz and kernel/"):
        images.kernel_image(str(tmp_path))


# A mirror in a folder ---------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path) -> Package:
    """A package with one file, in a mirror at tmp_path/mirror."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not installed")
    content = tmp_path / "content"
    (content / "DEBIAN").mkdir(parents=True)
    (content / "usr").mkdir()
    (content / "usr/file").write_text("hello\n", encoding="ascii")
    (content / "DEBIAN/control").write_text(
        "Package: one\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: d\n", encoding="ascii"
    )
    file = tmp_path / "mirror/pool/one.deb"
    file.parent.mkdir(parents=True)
    subprocess.run(["dpkg-deb", "-b", content, file], check=True, stdout=subprocess.DEVNULL)
    data = file.read_bytes()
    return Package("one", "1", "unstable", "pool/one.deb", len(data), hashlib.sha256(data).hexdigest(), ())


def test_a_package_is_unpacked(tmp_path: Path, package: Package, capsys: pytest.CaptureFixture[str]) -> None:
    Archive(f"file://{tmp_path}/mirror").unpack([package], tmp_path / "cache/one")
    assert (tmp_path / "cache/one/usr/file").read_text(encoding="ascii") == "hello\n"
    assert list((tmp_path / "cache").iterdir()) == [tmp_path / "cache/one"]
    assert "fetching one: 1 packages" in capsys.readouterr().err


def test_a_package_with_another_sum_is_refused(tmp_path: Path, package: Package) -> None:
    file = tmp_path / "mirror/pool/one.deb"
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(LabError, match="one 1 of Debian unstable: the SHA256 is"):
        Archive(f"file://{tmp_path}/mirror").unpack([package], tmp_path / "cache/one")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_package_that_is_not_there_is_named(tmp_path: Path, package: Package) -> None:
    (tmp_path / "mirror/pool/one.deb").unlink()
    with pytest.raises(LabError, match=r"mirror/pool/one\.deb cannot be read"):
        Archive(f"file://{tmp_path}/mirror").unpack([package], tmp_path / "cache/one")


def test_missing_programs_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match="install the package dpkg"):
        Archive("file:///nowhere").unpack([], tmp_path / "one")
    (tmp_path / "dists/unstable").mkdir(parents=True)
    (tmp_path / "dists/unstable/InRelease").touch()
    with pytest.raises(LabError, match="install the package gpgv"):
        Archive(f"file://{tmp_path}").index("unstable")


def _suite(mirror: Path, packages: bytes, named: bytes) -> None:
    folder = mirror / "dists/unstable/main/binary-amd64"
    folder.mkdir(parents=True)
    (folder / "Packages.xz").write_bytes(packages)
    release = (
        f"Suite: unstable\nSHA256:\n {hashlib.sha256(named).hexdigest()} {len(named)} main/binary-amd64/Packages.xz\n"
    )
    (mirror / "dists/unstable/InRelease").write_text(release, encoding="ascii")


def test_an_unsigned_suite_is_refused(tmp_path: Path) -> None:
    if shutil.which("gpgv") is None or not archive.KEYS.is_file():
        pytest.skip("gpgv or Debian's keys are not installed")
    compressed = lzma.compress(INDEX.encode())
    _suite(tmp_path, compressed, compressed)
    with pytest.raises(LabError, match=r"the signature of .* unstable cannot be verified"):
        Archive(f"file://{tmp_path}").index("unstable")


@pytest.mark.parametrize("same", [True, False])
def test_an_index_must_be_the_signed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, same: bool) -> None:
    monkeypatch.setattr(archive, "_signed_text", lambda signed, _what: signed.decode())
    compressed = lzma.compress(INDEX.encode())
    _suite(tmp_path, compressed, compressed if same else compressed + b"x")
    mirror = Archive(f"file://{tmp_path}")
    if same:
        assert mirror.index("unstable").find("libc6") is not None
    else:
        with pytest.raises(LabError, match=r"Packages\.xz of Debian unstable: the SHA256 is"):
            mirror.index("unstable")


# The network ------------------------------------------------------------------------------------------------------


class Server(socketserver.ThreadingTCPServer):
    """Answers each request with the same bytes, and ends the connection."""

    daemon_threads = True

    def __init__(self, answer: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Server)
        while self.rfile.readline().strip():
            pass
        self.wfile.write(self.server.answer)


BROKEN = {
    b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello": "ends 5 bytes too early",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nhe": "cannot be read: IncompleteRead",
    b"nonsense\r\n\r\n": "cannot be read: nonsense",
    b"HTTP/1.1 503 Busy\r\n\r\n": "cannot be read: Busy",
}


@pytest.mark.parametrize("answer", BROKEN)
def test_a_broken_answer_of_the_mirror_is_a_reason_to_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    wanted = Package("one", "1", "unstable", "pool/one.deb", 10, "0", ())
    with Server(answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mirror = Archive(server.url)
        for read in (partial(mirror.index, "unstable"), partial(mirror.unpack, [wanted], tmp_path / "one")):
            with pytest.raises(LabError, match=f"{BROKEN[answer]}.*: try again"):
                read()
        server.shutdown()


def test_an_error_while_reading_is_a_reason_to_try_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Answer(io.BytesIO):
        headers: ClassVar[dict[str, str]] = {}

        def read(self, _size: int | None = None) -> bytes:
            raise TimeoutError("timed out")

    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Answer())
    with pytest.raises(LabError, match="InRelease cannot be read: timed out: try again"):
        Archive(f"file://{tmp_path}").index("unstable")


# What is signed ---------------------------------------------------------------------------------------------------

KNOWN = """\
mDMEawtlfhYJKwYBBAHaRw8BAQdAmOpMLTDqJqR1OXRGgd9ZW43slru+L8D5bN82sD+cvjq0BWtub3duiJAEExYIADgWIQT+ZPQ9
jrq6KvSi3QPXRTorGGDE5AUCawtlfgIbAwULCQgHAgYVCgkICwIEFgIDAQIeAQIXgAAKCRDXRTorGGDE5IjoAP4oQ0BxHVOdJgvf
J4Ns3qwByTcRCxu6bTQ1E+NvSTEYjQD+MDK+KODjLPdOxWbFy+sUrZ8dOq53e1gW/rBd6LH+hg0=
"""
"""The public key of `known`, from `gpg --quick-generate-key known ed25519 sign never`."""

BOTH = b"""\
-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA256

Suite: unstable
-----BEGIN PGP SIGNATURE-----

iHUEARYIAB0WIQT+ZPQ9jrq6KvSi3QPXRTorGGDE5AUCawtlfgAKCRDXRTorGGDE
5Io+AQD7QSuzNoEj2kUl1r6cLSoEFYY4VLFkiaSDv77ZX7zoDwEA2eW75GOj6Ya5
YyHqkboJG7fe7EgNrPkyUIcUCo8N9QSIdQQBFggAHRYhBG/8+ZlVwSQDTuANsmDJ
CBV8GcvIBQJrC2V+AAoJEGDJCBV8GcvIz0cA/jcbSS/hWm8rtJM2iUOkZAtqWb50
j5N13k3P3PhHiYeUAP4gSUl6DgEQ6HXNqI+VQAWH9xK7gyF78N/C+GuX5juyDA==
=OW5T
-----END PGP SIGNATURE-----
"""
"""A text signed by `known` and by `stranger`."""

STRANGER = b"""\
-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA256

Suite: unstable
-----BEGIN PGP SIGNATURE-----

iHUEARYIAB0WIQRv/PmZVcEkA07gDbJgyQgVfBnLyAUCawtlfgAKCRBgyQgVfBnL
yM9HAP43G0kv4VpvK7STNolDpGQLalm+dI+Tdd5Nz9z4R4mHlAD+IElJeg4BEOh1
zaiPlUAFh/cSu4Mhe/Dfwvhrl+Y7sgw=
=k+m4
-----END PGP SIGNATURE-----
"""
"""The same text signed by `stranger` alone."""


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lab trusts `known` and no other key."""
    if shutil.which("gpgv") is None:
        pytest.skip("gpgv is not installed")
    (tmp_path / "known.gpg").write_bytes(base64.b64decode(KNOWN))
    monkeypatch.setattr(archive, "KEYS", tmp_path / "known.gpg")


@pytest.mark.usefixtures("known")
def test_one_known_signer_of_several_is_enough() -> None:
    assert archive._signed_text(BOTH, "x") == "Suite: unstable\n"


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(
    "signed",
    [
        STRANGER,
        BOTH.replace(b"Suite: unstable", b"Suite: testing"),
        BOTH + STRANGER,
        STRANGER + BOTH,
        b"Suite: unstable\n",
    ],
    ids=["unknown signer", "changed text", "a second text", "a text before it", "no signature"],
)
def test_what_no_known_signer_has_signed_is_refused(signed: bytes) -> None:
    with pytest.raises(LabError, match="the signature of x cannot be verified"):
        archive._signed_text(signed, "x")


@pytest.mark.parametrize("names", ["Suite: unstable", "Suite: other\nCodename: unstable"])
def test_the_index_of_the_suite_is_taken(names: str) -> None:
    archive._check_release(f"Origin: Debian\n{names}\nSHA256:\n", "unstable")


@pytest.mark.parametrize(("names", "said"), [("Suite: stable\nCodename: trixie", "stable or trixie"), ("", "no suite")])
def test_the_index_of_another_suite_is_refused(names: str, said: str) -> None:
    with pytest.raises(LabError, match=f"the mirror has {said} as Debian unstable"):
        archive._check_release(f"Origin: Debian\n{names}\n", "unstable")


@pytest.mark.parametrize(
    ("until", "checked", "reason"),
    [
        ("Fri, 06 Nov 2020 08:08:01 UTC", True, "has expired"),
        ("Fri, 06 Nov 2020 08:08:01 UTC", False, None),
        ("Sat, 06 Nov 2320 08:08:01 UTC", True, None),
        ("soon", True, "is valid until 'soon'"),
    ],
)
def test_an_expired_index_is_refused_as_by_apt(
    monkeypatch: pytest.MonkeyPatch, until: str, *, checked: bool, reason: str | None
) -> None:
    monkeypatch.setattr(archive, "_checks_valid_until", lambda: checked)
    release = f"Suite: unstable\nValid-Until: {until}\n"
    with pytest.raises(LabError, match=reason) if reason else contextlib.nullcontext():
        archive._check_release(release, "unstable")


def _program(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, *said: str) -> None:
    """A program that prints some lines, the only one in PATH."""
    (folder / name).write_text("\n".join(["#!/bin/sh", *(f"echo '{line}'" for line in said), ""]), encoding="ascii")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.parametrize(("said", "checks"), [(["answer='false'"], False), (["answer='true'"], True), ([], True)])
def test_apt_decides_whether_expired_indices_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str], *, checks: bool
) -> None:
    _program(tmp_path, monkeypatch, "apt-config", *(line.replace("'", "") for line in said))
    assert archive._checks_valid_until.__wrapped__() is checks
    (tmp_path / "apt-config").unlink()
    assert archive._checks_valid_until.__wrapped__()


SECURITY = "Debian|Debian-Security|http://deb.debian.org/a-security"


@pytest.mark.parametrize(
    ("sites", "mirror"),
    [
        ([SECURITY, "Debian|Debian|http://mirror.example/debian/"], "http://mirror.example/debian"),
        ([SECURITY, "Debian|Debian Backports|http://a.example"], archive.DEFAULT_MIRROR),
        (["Ubuntu|Ubuntu|http://a.example", "Debian|Debian|file:/cdrom"], archive.DEFAULT_MIRROR),
    ],
)
def test_the_mirror_is_that_of_the_main_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sites: list[str], mirror: str
) -> None:
    _program(tmp_path, monkeypatch, "apt-get", *sites)
    assert archive.find_mirror.__wrapped__() == mirror
