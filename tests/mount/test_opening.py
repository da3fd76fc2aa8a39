"""Opens that the VFS would answer otherwise than kernfs does, were it not asked to look again."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mount.served import Served

pytestmark = pytest.mark.mount


def test_an_appending_write_begins_at_the_beginning(mount: Served) -> None:
    """And the size is what it always is."""
    file = os.open(mount / "value", os.O_WRONLY | os.O_APPEND)
    try:
        assert os.write(file, b"one\n") == 4
        assert os.lseek(file, 0, os.SEEK_CUR) == 4
        assert os.fstat(file).st_size == os.stat(mount / "value").st_size == 4096
    finally:
        os.close(file)


def test_a_shell_that_appends_writes_one_command(mount: Served) -> None:
    mount.stores()
    subprocess.run(["sh", "-c", f"echo two >> {mount / 'value'}"], check=True)
    assert mount.stores() == [b"two\n"]


RACING = """
import errno, os, sys
seen = set()
for _ in range(int(sys.argv[2])):
    try:
        os.close(os.open(sys.argv[1], os.O_RDONLY | int(sys.argv[3])))
    except OSError as error:
        seen.add(errno.errorcode[error.errno])
print(*seen)
"""


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_APPEND])
def test_whoever_opens_what_comes_and_goes_hears_of_no_stale_file(tmp_path: Path, flags: int) -> None:
    """ENOENT, or it is there: ENODEV is for files that were open, ESTALE for nobody."""
    point = tmp_path / "mnt"
    point.mkdir()
    fakesysfs = [sys.executable, "-m", "fakesysfs"]
    subprocess.run([*fakesysfs, "mount", point, "--machine", "tiny"], check=True, capture_output=True)
    try:
        attribute = point / "sys/bus/dax/devices/dax0.0/hotplug"
        block = next(iter((point / "sys/bus/dax/devices/dax0.0").resolve().glob("target_node"))).read_text().strip()
        path = next((point / f"sys/devices/system/node/node{block}").glob("memory[0-9]*")).resolve() / "state"
        with subprocess.Popen(
            [sys.executable, "-c", RACING, path, "1500", str(flags)], stdout=subprocess.PIPE, text=True
        ) as reader:
            while reader.poll() is None:
                for word in ("unplug", "online_movable"):
                    attribute.write_text(word)
            assert reader.stdout is not None
            assert set(reader.stdout.read().split()) <= {errno.errorcode[errno.ENOENT]}
    finally:
        subprocess.run([*fakesysfs, "umount", point], check=True)
