"""The source distribution and the wheel: nothing is missing, and what an index shows of them is right."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import BytesParser
from pathlib import Path

import pytest

import fakesysfs
from tests.test_without_pyfuse3 import HIDING

pytest.importorskip("hatchling", reason="the packages are built with hatchling")
pytest.importorskip("hatch_fancy_pypi_readme")

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NOT_RELATIVE = r"(?!\w+:)"


def build(source: Path, target: str, directory: Path) -> Path:
    """One package of `source`, as a build frontend makes it."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", directory],
        cwd=source, check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    (built,) = directory.iterdir()
    return built


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked."""
    path = build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))
    assert path.name == f"fakesysfs-{fakesysfs.__version__}.tar.gz"
    directory = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(path) as archive:
        archive.extractall(directory, filter="data")
    return directory / path.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that the source distribution builds."""
    return build(unpacked, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    """What an index shows."""
    with zipfile.ZipFile(wheel) as archive:
        return BytesParser().parsebytes(archive.read(f"fakesysfs-{fakesysfs.__version__}.dist-info/METADATA"))


def tracked() -> set[str]:
    """The files of the repository."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=False, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a clone of the repository")
    return set(listed.stdout.split("\0")) - {""}


def test_the_source_distribution_has_every_file_of_the_repository(unpacked: Path) -> None:
    expected = tracked()
    found = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if not path.is_dir()}
    assert found - {"PKG-INFO"} == expected
    for name in ("mount.sh", "tests/run"):
        assert os.access(unpacked / name, os.X_OK), name


def test_the_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    data = f"fakesysfs-{fakesysfs.__version__}.data/data"
    expected = {name for name in tracked() if name.startswith("fakesysfs/")}
    expected |= {f"{data}/{name}" for name in tracked() if name.startswith("share/")}
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == expected
    assert wheel.name == f"fakesysfs-{fakesysfs.__version__}-py3-none-any.whl", "for every Python and machine"


def test_the_wheel_runs(wheel: Path, tmp_path: Path) -> None:
    """Its machines and its counts are there; Python imports a wheel's content from any directory."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)  # noqa: S202  our own
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    script = "import fakesysfs.cli; print(fakesysfs.__file__); fakesysfs.cli.main(['list'])"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], cwd="/", env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"{tmp_path}/fakesysfs/__init__.py\n")
    assert "hotplug-v3-as-posted" in done.stdout


@pytest.mark.ci
def test_the_tests_of_the_source_distribution_collect(unpacked: Path, tmp_path: Path) -> None:
    """Also without pyfuse3, which needs a compiler."""
    (tmp_path / "sitecustomize.py").write_text(HIDING, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"],
        cwd=unpacked, env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=False, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert re.search(r"^\d{4,}/?\d* tests collected", done.stdout, re.MULTILINE), done.stdout[-2000:]


# What an index shows ----------------------------------------------------------------------------------------------


def relative_links(text: str) -> list[str]:
    """Links and pictures, of Markdown and of HTML, that lead to files beside the text."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [
        *re.findall(rf"\]\({NOT_RELATIVE}[^)]*\)", text),
        *re.findall(rf"<[^>]*\b(?:src|href|srcset)=[\"']?{NOT_RELATIVE}[^>]*>", text),
    ]


def test_the_readme_has_no_link_that_an_index_page_cannot_follow(metadata: Message) -> None:
    text = metadata.get_payload()
    assert isinstance(text, str)
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert relative_links((ROOT / "README.md").read_text(encoding="utf-8")), "links that it must lose"
    assert relative_links(text) == []
    assert "docs/testing.md" in text, "their words stay"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("[words](docs/page.md)", "words"),
        ("[two\nlines](docs/page.md#anchor)", "two\nlines"),
        ("![caption](docs/picture.svg)", "caption"),
        ("[![caption](docs/picture.svg)](docs/page.md)", "caption"),
        ('[words](page.md "title")', "words"),
        ("[words](#anchor)", "words"),
        ('<p><img src="docs/picture.svg" alt="x"></p>', "<p></p>"),
        ("[words](https://lore.kernel.org/)", "[words](https://lore.kernel.org/)"),
        ("`array[1](2)`, list[0] (x)", "`array[1](2)`, list[0] (x)"),
    ],
)
def test_what_becomes_of_a_link(written: str, shown: str) -> None:
    for rule in PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        written = re.sub(rule["pattern"], rule["replacement"], written)
    assert written == shown


def test_the_version_is_in_one_place(metadata: Message) -> None:
    assert "version" in PROJECT["project"]["dynamic"]
    assert metadata["Version"] == fakesysfs.__version__
    done = subprocess.run([sys.executable, "-m", "fakesysfs", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"fakesysfs {fakesysfs.__version__}\n"


def test_the_metadata_of_a_release(metadata: Message) -> None:
    classifiers = metadata.get_all("Classifier", [])
    stable = int(fakesysfs.__version__.partition(".")[0]) >= 1
    assert ("Development Status :: 5 - Production/Stable" in classifiers) == stable
    versions = [name.rpartition(" ")[2] for name in classifiers if re.search(r":: 3\.\d+$", name)]
    assert f">={versions[0]}" == metadata["Requires-Python"]
    assert metadata["License-Expression"] == "MIT"
    assert set(metadata.get_all("Provides-Extra", [])) == {"browser", "docs", "mount", "test"}


def test_the_set_up_finds_what_builds_the_package() -> None:
    """tests/run has what [build-system] names, so that these tests are not skipped."""
    assert set(PROJECT["build-system"]["requires"]) <= set(PROJECT["project"]["optional-dependencies"]["test"])
    assert shutil.which("hatchling", path=Path(sys.executable).parent) is not None
