"""The real thing as a newcomer meets it: the command mounts the default machine, the shell does the rest."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakesysfs.fuse.mount_table import mounted_at
from fakesysfs.ops.errors import NAMES
from tests import blocks

pytestmark = pytest.mark.mount

ROOT = Path(__file__).parents[2]
HOTPLUG = "sys/bus/dax/devices/dax0.0/hotplug"
MEMORY = "sys/devices/system/memory"


def fakesysfs(*arguments: object, state: Path | None = None) -> subprocess.CompletedProcess[str]:
    """One command; `state` is where a daemon writes its log."""
    command = [sys.executable, "-m", "fakesysfs", *map(str, arguments)]
    environment = {**os.environ, **({"XDG_STATE_HOME": str(state)} if state else {})}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


@contextlib.contextmanager
def mounted(point: Path, *options: str) -> Iterator[Path]:
    """A machine mounted by the command, unmounted at the end; its server must have logged nothing."""
    point.mkdir(parents=True)
    state = point.with_name(f"{point.name}-state")
    done = fakesysfs("mount", point, *options, state=state)
    assert done.returncode == 0, done.stderr
    try:
        yield point
    finally:
        assert fakesysfs("umount", point).returncode == 0
        assert not mounted_at(str(point))
        (log,) = (state / "fakesysfs").iterdir()
        assert log.read_text() == ""


@pytest.fixture
def mnt(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "mnt") as point:
        yield point


def write(path: Path, data: bytes | str) -> str:
    """One write(2): "ok", or the errno."""
    try:
        file = os.open(path, os.O_WRONLY)
        try:
            os.write(file, data.encode() if isinstance(data, str) else data)
        finally:
            os.close(file)
    except OSError as error:
        return NAMES[error.errno or 0]
    return "ok"


def test_a_poisoned_page_through_the_host(mnt: Path) -> None:
    """EHWPOISON is an errno that Python has no name for, and that the host passes on."""
    memory = mnt / MEMORY
    assert write(memory / "hard_offline_page", "0x1c0000000") == "ok"
    assert write(memory / "hard_offline_page", "0x1c0000000") == "EHWPOISON"
    assert (mnt / "sys/devices/system/node/node1/memory_failure/recovered").read_text() == "1\n"


def mem_total(mnt: Path) -> int:
    """MemTotal in kB."""
    line = (mnt / "proc/meminfo").read_text().splitlines()[0]
    return int(line.split()[1])


def test_the_readmes_commands(tmp_path: Path) -> None:
    """They print what the README says they do (process ids apart)."""
    steps = blocks.steps_of(ROOT / "README.md")
    assert len(steps) > 20
    assert steps[-1].command == "./mount.sh --unmount"
    # The checkout's own has its mountpoint there, and the steps are run elsewhere.
    script = tmp_path / "mount.sh"
    script.write_text(
        f'#!/bin/sh\n[ $# -gt 0 ] || set -- mnt\n[ "$*" != --unmount ] || set -- "$@" mnt\nexec {ROOT}/mount.sh "$@"\n'
    )
    script.chmod(0o755)
    try:
        differences = blocks.run(steps, tmp_path, 60)
        assert not differences, "\n\n".join(differences)
        assert not mounted_at(str(tmp_path / "mnt"))
    finally:
        subprocess.run([script, "--unmount"], cwd=tmp_path, stderr=subprocess.DEVNULL, check=False)


def test_unplug_takes_blocks_node_tier_and_memory(mnt: Path) -> None:
    """32 directories, the node, the tier and 4,194,304 kB; the reservation stays."""
    total = mem_total(mnt)
    blocks = {f"memory{index}" for index in range(64, 96)}
    assert blocks <= set(os.listdir(mnt / MEMORY))
    assert write(mnt / HOTPLUG, "unplug\n") == "ok"
    assert (mnt / HOTPLUG).read_text() == "unplugged\n"
    assert not blocks & set(os.listdir(mnt / MEMORY))
    assert not (mnt / "sys/devices/system/node/node2").exists()
    assert os.listdir(mnt / "sys/bus/memory_tiering/devices") == ["memory_tier4"]
    assert total - mem_total(mnt) == 4_194_304
    iomem = (mnt / "proc/iomem").read_text()
    assert "200000000-2ffffffff : dax0.0\n" in iomem
    assert "System RAM (kmem)" not in iomem
    assert write(mnt / HOTPLUG, "online_movable\n") == "ok"
    assert mem_total(mnt) == total
    assert blocks <= set(os.listdir(mnt / MEMORY))


@pytest.mark.parametrize("word", ["bogus", "unplugged", "offline", "online_kernel", "Online", ""])
def test_words_that_are_refused(mnt: Path, word: str) -> None:
    assert write(mnt / HOTPLUG, f"{word}\n") == "EINVAL"
    assert (mnt / HOTPLUG).read_text() == "online_movable\n"


def test_a_block_that_cannot_go_keeps_all(mnt: Path) -> None:
    """EBUSY, and everything is as before; the same state again is EINVAL for a block."""
    assert write(mnt / HOTPLUG, "online") == "EBUSY"
    before = (sorted(os.listdir(mnt / MEMORY)), mem_total(mnt), (mnt / "proc/iomem").read_text())
    assert write(mnt / "control/blocks/memory80/unmovable", "1") == "ok"
    assert write(mnt / HOTPLUG, "unplug") == "EBUSY"
    assert (sorted(os.listdir(mnt / MEMORY)), mem_total(mnt), (mnt / "proc/iomem").read_text()) == before
    assert write(mnt / MEMORY / "memory80/state", "online") == "EINVAL"
    assert write(mnt / MEMORY / "memory80/state", "offline") == "EBUSY"
    assert write(mnt / "control/blocks/memory80/unmovable", "0") == "ok"
    assert write(mnt / MEMORY / "memory80/state", "offline") == "ok"
    assert (mnt / HOTPLUG).read_text() == "online_movable\n"
    assert write(mnt / HOTPLUG, "unplug") == "ok"


def test_what_is_listed_is_what_is_there(mnt: Path) -> None:
    """No dangling link; every name that readdir gives can be looked up, and is what readdir said."""
    count = 0
    for base, _, _ in os.walk(mnt):
        for entry in os.scandir(base):
            kobj = os.lstat(entry.path)
            assert entry.inode() == kobj.st_ino
            assert entry.is_dir(follow_symlinks=False) == stat.S_ISDIR(kobj.st_mode)
            if entry.is_symlink():
                assert os.path.exists(entry.path), f"{entry.path} -> {os.readlink(entry.path)}"
            count += 1
    assert count > 1000


def test_tools_that_walk(mnt: Path) -> None:
    """ls, grep and tar come to an end; what root may not read either is all that they complain of."""
    for command in (f"ls -lR {mnt} > {os.devnull}", f"tar cf - {mnt}/sys 2> {os.devnull} | tar tf - > {os.devnull}"):
        assert subprocess.run(command, shell=True, check=False, timeout=120).returncode == 0
    found = subprocess.run(["grep", "-r", ".", mnt / MEMORY], capture_output=True, text=True, check=False, timeout=120)
    assert f"{mnt}/{MEMORY}/memory64/state:online" in found.stdout
    for line in found.stderr.splitlines():
        assert "offline_page: Permission denied" in line or "Input/output error" in line, line


@pytest.mark.parametrize("command", ["cp -r mnt/control x", "grep -r . mnt/control", "tar cf x.tar mnt/control"])
def test_tools_that_read_all_of_control_end(mnt: Path, command: str) -> None:
    """They complain of nothing but the files that cannot be read."""
    done = subprocess.run(command, shell=True, cwd=mnt.parent, capture_output=True, text=True, check=False, timeout=120)
    complaints = [line for line in done.stderr.splitlines() if "Permission denied" not in line]
    assert [line for line in complaints if "previous errors" not in line] == []
    if command.startswith("cp"):
        assert (mnt.parent / "x/kmsg").read_text() == (mnt / "control/kmsg").read_text()


def test_read_your_writes(mnt: Path) -> None:
    """3,000 rounds of a write, then a stat of what it added or removed, while others look the same names up."""
    lookers = subprocess.Popen(
        ["sh", "-c", "while :; do ls memory64 memory95 >&- 2>&-; stat memory80/state >&- 2>&-; done"], cwd=mnt / MEMORY
    )
    link = mnt / "sys/bus/memory/devices/memory95"
    stale = 0
    try:
        file = os.open(mnt / HOTPLUG, os.O_WRONLY)
        for _ in range(1500):
            os.write(file, b"unplug")
            stale += os.path.lexists(mnt / MEMORY / "memory64") + os.path.lexists(link)
            os.write(file, b"online_movable")
            stale += not os.path.exists(mnt / MEMORY / "memory64/state") or not os.path.exists(link)
        os.close(file)
    finally:
        lookers.kill()
        lookers.wait()
    assert stale == 0


def test_a_block_is_gone_from_every_place_that_was_looked_at(mnt: Path) -> None:
    """The host must forget each name that it has looked up, those below control/ too."""
    for place in (MEMORY, "sys/bus/memory/devices", "sys/devices/system/node/node2", "control/blocks"):
        name = mnt / place / "memory80"
        for word, there in (("unplug", False), ("online_movable", True)) * 2:
            assert os.path.lexists(name) != there, place
            assert write(mnt / HOTPLUG, word) == "ok"
            assert os.path.lexists(name) == there, place
            assert (name.name in os.listdir(name.parent)) == there if name.parent.exists() else not there


BAD = [b"\n", b"x" * 4096, b"y" * 10_000, b"\0", b"online\0junk", b"\xff\xfe\x80", b"-1\n", b"0x\n"]


def test_every_writable_attribute_stands_anything_from_eight_writers(mnt: Path) -> None:
    """The server lives and has no traceback in its log, each answer is a success or an errno of the kernel's.

    And the model is sound afterwards.
    """
    paths = [
        os.path.join(base, name)
        for base, _, files in os.walk(mnt)
        for name in files
        if os.stat(os.path.join(base, name)).st_mode & 0o200 and "/dev/" not in base + "/"
    ]
    assert len(paths) > 300
    answers: set[tuple[str, str]] = set()

    def writer(share: int) -> None:
        for path in paths[share::4]:
            for data in BAD:
                answers.add((write(Path(path), data), os.path.basename(path)))

    threads = [threading.Thread(target=writer, args=(number % 4,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    allowed = {"ok", "EINVAL", "EBUSY", "ENODEV", "ENXIO", "ENOENT", "ERANGE", "ENOSPC", "EOPNOTSUPP", "ENOTSUP"}
    assert {answer for answer in answers if answer[0] not in allowed} == {("EIO", "autosuspend_delay_ms")}
    assert write(mnt / "control/reset", "1") == "ok"
    assert (mnt / HOTPLUG).read_text() == "online_movable\n"


def test_a_group_of_files_that_is_open_while_it_goes(mnt: Path) -> None:
    """fstat(2) goes on, as for a removed file; its names are gone."""
    group = "sys/bus/cxl/devices/dax_region0/dax_region"
    descriptor = os.open(mnt / group, os.O_RDONLY | os.O_DIRECTORY)
    assert write(mnt / "control/modules/unload", "dax_cxl") == "ok"
    found = os.fstat(descriptor)
    assert (stat.S_ISDIR(found.st_mode), found.st_nlink) == (True, 0)
    assert os.listdir(descriptor) == []
    os.close(descriptor)


def test_two_mounts_are_independent(tmp_path: Path) -> None:
    with mounted(tmp_path / "one") as one, mounted(tmp_path / "two", "--kernel", "7.3") as two:
        assert write(one / HOTPLUG, "unplug") == "ok"
        assert (two / "sys/bus/dax/devices/dax0.0/state").read_text() == "online_movable\n"
        assert (two / "control/kernel").read_text() == "7.3\n"


def test_after_a_kill_it_mounts_again(tmp_path: Path) -> None:
    point = tmp_path / "mnt"
    point.mkdir()
    assert fakesysfs("mount", point).returncode == 0
    os.kill(int((point / "control/pid").read_text()), 9)
    again = fakesysfs("mount", point)
    assert again.returncode == 0, again.stderr
    assert (point / HOTPLUG).read_text() == "online_movable\n"
    assert fakesysfs("umount", point).returncode == 0


def test_wrong_use_is_said_and_nothing_is_mounted(tmp_path: Path) -> None:
    point = tmp_path / "mnt"
    point.mkdir()
    for options in (["--machine", "nosuch"], ["--kernel", "6.1"], ["--machine", str(point)]):
        done = fakesysfs("mount", point, *options)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert options[1] in done.stderr
        assert not mounted_at(str(point))
