"""What all tests share: where FUSE may be used, and that no mount outlives its test."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from fakesysfs.fuse.mount import MountError, check_device, check_library, detach
from fakesysfs.fuse.mount_table import TYPE, mounts

# nohup(1) or a shell's `&` has them ignored. What tests start must not inherit that.
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

# No test depends on how fast the machine is.
hypothesis.settings.register_profile("fakesysfs", parent=hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("fakesysfs")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what mounts where FUSE cannot be used; continuous integration must be able to."""
    if os.environ.get("CI") == "true":
        return
    try:
        check_library()
        check_device()
    except MountError as error:
        for item in items:
            if item.get_closest_marker("mount"):
                item.add_marker(pytest.mark.skip(reason=str(error)))


@pytest.fixture(scope="session", autouse=True)
def _logs_of_daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Not among the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_mount_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    yield
    _assert_no_mount_below(tmp_path_factory.getbasetemp())


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A directory that every user can reach.

    Each start of pytest, of other sessions too, closes the parents of `tmp_path` to other users.
    """
    with tempfile.TemporaryDirectory(prefix="public-") as directory:
        path = Path(directory).resolve()
        path.chmod(0o755)
        yield path
        _assert_no_mount_below(path)


def _assert_no_mount_below(base: Path) -> None:
    left = [mount.point for mount in mounts() if mount.type == TYPE and Path(mount.point).is_relative_to(base)]
    for point in left:
        detach(point)
    assert not left, "tests left mounts behind"
