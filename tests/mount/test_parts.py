"""Parts of the fuse layer without a mount."""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

pytest.importorskip("pyfuse3")

import pyfuse3

from fakesysfs.fuse import mount as mount_module
from fakesysfs.fuse.callers import command_of, has_open, interrupted
from fakesysfs.fuse.driver import OperationDriver
from fakesysfs.fuse.fast import loop
from fakesysfs.fuse.handler import answer_errno
from fakesysfs.fuse.invalidate import CONTENDED_LOOKUPS, CONTENDED_SECONDS, STILL_CONTENDED_LOOKUPS, Invalidator
from fakesysfs.fuse.mount import IN_A_CONTAINER, MountError, check_device
from fakesysfs.fuse.mount_table import mounts
from fakesysfs.fuse.operations import Operations
from fakesysfs.kernfs import open_directory
from fakesysfs.ops.sched import Answer, Preempt, Signals, Sleep, Wait, WaitQueue, ask
from tests.model import Face
from tests.mount.toy import Sysroot, Toy


class Host:
    """What the host was told to forget."""

    def __init__(self, toy: Toy) -> None:
        self.toy = toy
        self.names: list[tuple[int, bytes]] = []
        self.inodes: list[int] = []
        self.in_use: list[int] = []
        self.refuses = 0
        self.started = False
        self.cache = Invalidator(toy.tree, self.forget_name, self.inodes.append, lambda: self.in_use)

    def forget_name(self, parent: int, name: bytes) -> None:
        self.names.append((parent, name))
        if self.refuses:
            raise OSError(self.refuses, "the host refuses")

    async def told(self) -> list[bytes]:
        """What was told since the last call."""
        self.cache.collect()
        if not self.started:
            self.started = True
            self.cache.start()
        await self.cache.flush()
        names, self.names = self.names, []
        return [name for _, name in names]


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host(Toy())
    yield host
    host.cache.abandon()


async def test_only_names_that_the_host_may_hold_are_told(host: Host) -> None:
    family = host.toy.family
    for number in (3, 7, 8, 15, 16, 31, 5000):
        host.cache.note(family, b"memory%d" % number)
    host.toy.set_present(b"- 7 15")
    assert await host.told() == [b"memory7", b"memory8", b"memory15"]
    host.toy.set_present(b"+ 0 9999")
    assert await host.told() == [b"memory3", b"memory16", b"memory31", b"memory5000"]
    host.toy.set_present(b"- 0 9999")
    assert await host.told() == []


async def test_single_names_are_told_as_often_as_the_host_heard_of_them(host: Host) -> None:
    host.toy.set_bound(b"0")
    assert await host.told() == []
    host.cache.note(1, b"link")
    host.cache.note(1, b"value")  # always there
    host.toy.set_bound(b"1")
    assert await host.told() == [b"link"]
    host.toy.set_bound(b"0")
    assert await host.told() == []


async def test_of_too_many_names_in_a_directory_all_are_told(host: Host) -> None:
    for number in range(5000):
        host.cache.note(1, b"%d" % number)
    host.toy.set_bound(b"0")
    assert await host.told() == [b"link"]


async def test_names_inside_a_member_of_a_family_are_not_remembered(host: Host) -> None:
    """There may be half a million members, and no name there changes while one lives."""
    for number in range(32):
        member = host.toy.tree.walk(f"/family/memory{number}")
        host.cache.note(member, b"anything")
        assert host.cache.held_in(member) is None
    assert not host.cache._held


async def test_link_count_and_open_files_of_the_dead_are_told(host: Host) -> None:
    ino = host.toy.tree.walk("/device/state")
    host.in_use = [1, ino]
    host.cache.note(1, b"device")
    host.toy.remove()
    assert await host.told() == [b"device"]
    assert host.inodes == [1, ino]


async def test_unchanged_tree_costs_nothing(host: Host) -> None:
    host.cache.collect()
    assert not host.cache.unsettled
    assert not host.inodes


async def test_host_that_does_not_hold_a_name(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.refuses = errno.ENOENT
    host.cache.note(1, b"link")
    host.toy.set_bound(b"0")
    assert await host.told() == [b"link"]
    assert not caplog.records


async def test_host_that_does_not_let_go(host: Host) -> None:
    """flush() gives up; the thread, which hangs in the host's call, is not done."""
    host.cache.note(1, b"link")
    host.toy.set_bound(b"0")
    host.cache.collect()
    await host.cache.flush()
    assert host.cache.unsettled


async def contend(host: Host) -> None:
    """Clients look names up in the family while a store there waits for the host."""
    family = host.toy.family
    host.cache.note(family, b"memory3")
    host.toy.set_present(b"- 3 3")
    host.cache.collect()
    for _ in range(CONTENDED_LOOKUPS):
        host.cache.note(family, b"memory4")
    assert await host.told() == [b"memory3"]


async def test_in_a_contended_directory_the_host_keeps_no_names(host: Host, mock_clock: trio.testing.MockClock) -> None:
    """So that the next store has nothing to be forgotten, and waits for no client that holds the directory's lock."""
    family = host.toy.family
    assert host.cache.may_be_kept(family)
    await contend(host)
    assert not host.cache.may_be_kept(family)
    host.toy.set_present(b"- 10 12")
    host.cache.collect()
    assert not host.cache.unsettled, "the store is answered before any other request"
    assert host.inodes[-1] == family, "its link count changed"
    assert host.cache.may_be_kept(host.toy.tree.walk("/device"))
    mock_clock.jump(CONTENDED_SECONDS)
    assert host.cache.may_be_kept(family)


async def test_a_directory_stays_contended_while_it_is_in_demand(
    host: Host, mock_clock: trio.testing.MockClock
) -> None:
    family = host.toy.family
    await contend(host)
    for _ in range(3):
        mock_clock.jump(CONTENDED_SECONDS - 1)
        for _ in range(STILL_CONTENDED_LOOKUPS):
            assert not host.cache.may_be_kept(family)
        host.toy.set_present(b"+ 3 3")
        host.cache.collect()
    mock_clock.jump(CONTENDED_SECONDS - 1)
    host.toy.set_present(b"- 3 3")
    host.cache.collect()
    mock_clock.jump(1)
    assert host.cache.may_be_kept(family)


async def test_a_few_lookups_make_no_contention(host: Host) -> None:
    host.cache.note(host.toy.family, b"memory3")
    host.toy.set_present(b"- 3 3")
    host.cache.collect()
    for _ in range(CONTENDED_LOOKUPS - 1):
        host.cache.note(host.toy.family, b"memory4")
    await host.told()
    assert host.cache.may_be_kept(host.toy.family)


async def test_the_thread_outlives_a_lack_of_memory(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    forget = host.cache._forget_name

    def fail(_parent: int, _name: bytes) -> None:
        raise MemoryError

    host.cache.note(1, b"link")
    host.cache._forget_name = fail
    host.toy.set_bound(b"0")
    assert await host.told() == []
    assert not host.cache.unsettled
    assert [record.message for record in caplog.records] == ["the host may not have forgotten a name"]
    host.cache.note(1, b"link")
    host.cache._forget_name = forget
    host.toy.set_bound(b"1")
    assert await host.told() == [b"link"]


async def test_driver_turns_requests_into_waits(autojump_clock: trio.testing.MockClock) -> None:
    queue = WaitQueue()
    steps = 0

    def stepped() -> None:
        nonlocal steps
        steps += 1

    async def operation() -> list[Answer]:
        answers = [await ask(Preempt("p")), await ask(Sleep("s", 100.0))]
        answers.append(await ask(Wait("w", queue, Signals.ANY)))
        return answers

    async def wake() -> None:
        await trio.sleep(200)
        queue.wake_all()

    slept: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wake)
        driver = OperationDriver(stepped)
        answers = await driver.drive(operation(), os.getpid(), 0, lambda: slept.append(trio.current_time()))
    assert answers == [Answer.WOKEN] * 3
    assert steps == 4
    assert len(slept) == 1
    assert driver.asleep == 0
    assert not queue


async def test_who_waits_for_others_keeps_nobody_busy(autojump_clock: trio.testing.MockClock) -> None:
    driver, queue = OperationDriver(lambda: None), WaitQueue()
    seen: list[int] = []

    async def operation() -> None:
        await ask(Wait("w", queue))
        seen.append(driver.blocked_operations)
        await ask(Sleep("s", 100.0))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(driver.drive, operation(), 0, 0)
        nursery.start_soon(driver.drive, operation(), 0, 0)
        await trio.sleep(1)
        seen.append(driver.blocked_operations)
        queue.wake_all()
        seen.append(driver.blocked_operations)
        await trio.sleep(1)
        seen.append(driver.blocked_operations)
    with trio.move_on_after(1):
        await driver.drive(operation(), 0, 0)
    assert seen == [2, 0, 0, 0, 0]
    assert driver.blocked_operations == 0, "nobody is left of one that was cancelled"


async def test_cancelled_operation_is_closed(autojump_clock: trio.testing.MockClock) -> None:
    closed = False

    async def operation() -> None:
        nonlocal closed
        try:
            await ask(Wait("w", WaitQueue()))
        finally:
            closed = True

    with trio.move_on_after(1):
        await OperationDriver(lambda: None).drive(operation(), 0, 0)
    assert closed


def test_signals_of_a_caller() -> None:
    assert not interrupted(os.getpid(), Signals.ANY)
    code = (
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]); print(flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGUSR1)
        assert not interrupted(process.pid, Signals.ANY)
        process.kill()
    assert interrupted(process.pid, Signals.FATAL)


def test_files_of_other_mounts_have_the_same_numbers() -> None:
    """Two machines are alike to the inode number: the mount's device tells whose file a thread waits for."""
    with Path("/proc/self/status").open() as file:
        kobj = os.fstat(file.fileno())
        device = f"{os.major(kobj.st_dev)}:{os.minor(kobj.st_dev)}"
        thread = str(os.getpid())
        assert has_open(thread, kobj.st_ino, device)
        assert has_open(thread, kobj.st_ino, None)
        assert not has_open(thread, kobj.st_ino, "0:0")
        assert not has_open(thread, kobj.st_ino + 1, device)


@pytest.mark.parametrize(("number", "answer"), [(16, 16), (133, 133), (0, 5), (512, 5), (524, 5), (41, 5)])
def test_errnos_of_no_host_are_eio(number: int, answer: int) -> None:
    assert answer_errno(number) == answer


async def test_attributes_of_what_was_removed_after_the_host_found_it() -> None:
    """Another type than it had would be EIO for whoever asked."""
    toy = Toy()
    operations = Operations(Sysroot(toy), lambda: None)
    caller: Any = SimpleNamespace(pid=1, uid=0)
    ino = toy.tree.walk("/link")
    toy.set_bound(b"0")
    with pytest.raises(pyfuse3.FUSEError) as raised:
        await operations.getattr(ino, caller)
    assert raised.value.errno == errno.ENOENT


async def test_nobody_is_told_to_look_up_again_twice() -> None:
    """The VFS asks twice only: then ESTALE would be the caller's, though stores fell asleep on both numbers."""
    toy = Toy()
    operations = Operations(Sysroot(toy), lambda: None)
    caller: Any = SimpleNamespace(pid=1, uid=0)
    ino = toy.tree.walk("/value")
    for flags in (os.O_WRONLY, os.O_WRONLY | os.O_APPEND):
        operations._slept_on[ino] = 1
        with pytest.raises(pyfuse3.FUSEError) as raised:
            await operations.open(ino, flags, caller)
        assert raised.value.errno == errno.ESTALE
        again = toy.tree.realias(ino)
        operations._slept_on[again] = 1
        assert (await operations.open(again, flags, caller)).fh


async def test_the_journal_names_the_command_and_the_user_of_the_opener() -> None:
    """The next open by the same process may be by another user."""
    face = Face()
    operations = Operations(face.sysroot, lambda: None)
    ino = face.sysroot.tree.resolve("/sys/bus/dax/drivers/kmem/bind")
    for uid in (0, 1000):
        caller: Any = SimpleNamespace(pid=os.getpid(), uid=uid)
        with pytest.raises(pyfuse3.FUSEError):
            await operations.open(ino, os.O_RDONLY, caller)
    command = command_of(os.getpid())
    assert command
    assert [(call.pid, call.command, call.uid) for call in face.sysroot.journal.refused.since(0)] == [
        (os.getpid(), command, 0),
        (os.getpid(), command, 1000),
    ]


async def test_an_open_whose_name_was_absent_and_came_and_went_is_not_stale() -> None:
    """A member goes, comes and goes again while one open looks for it: ENOENT, as it is gone."""
    toy = Toy()
    operations = Operations(Sysroot(toy), lambda: None)
    caller: Any = SimpleNamespace(pid=1, uid=0)
    ino = toy.tree.walk("/family/memory3/state")
    toy.set_present(b"- 3 3")
    for expected in (errno.ESTALE, errno.ENOENT):
        with pytest.raises(pyfuse3.FUSEError) as raised:
            await operations.open(ino, os.O_RDONLY, caller)
        assert raised.value.errno == expected
        assert (await operations.lookup(toy.family, b"memory3", caller)).st_ino == 0
    # The next open is another one.
    value = toy.tree.walk("/value")
    operations._slept_on[value] = 1
    with pytest.raises(pyfuse3.FUSEError) as raised:
        await operations.open(value, os.O_WRONLY, caller)
    assert raised.value.errno == errno.ESTALE


@pytest.fixture
def loop_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Puts back what the loop has changed, and stops its timer."""
    inside: Any = pyfuse3
    monkeypatch.delenv("FAKESYSFS_PYFUSE3", raising=False)
    monkeypatch.setattr(pyfuse3, "trio", trio, raising=False)
    monkeypatch.setattr(pyfuse3, "_wait_fuse_readable", inside._wait_fuse_readable)
    before = signal.getsignal(signal.SIGALRM)
    yield
    loop.end()
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("loop_of_its_own")
def test_fast_loop_is_for_known_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    inside: Any = pyfuse3
    stock_wait = inside._wait_fuse_readable

    def stock_loop() -> bool:
        return inside.trio is trio and inside._wait_fuse_readable is stock_wait

    with monkeypatch.context() as unknown:
        unknown.setattr(pyfuse3, "__version__", "99.0")
        assert not loop.install(lambda: False, bursts=True)
    with monkeypatch.context() as unknown:
        unknown.setattr(loop, "_stock_wait", None)
        assert not loop.install(lambda: False, bursts=True), "one that has another loop"
    with monkeypatch.context() as unknown:
        unknown.setenv("FAKESYSFS_PYFUSE3", "documented")
        assert not loop.install(lambda: False, bursts=True)
    assert stock_loop()
    assert loop.install(lambda: False, bursts=True)
    assert not stock_loop()


@pytest.mark.usefixtures("loop_of_its_own")
@pytest.mark.parametrize("bursts", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_a_request_that_is_gone_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, *, bursts: bool, known: bool
) -> None:
    """Trio has said that one is there; its caller was killed before read(2). Here an empty pipe has no request."""
    device, other_end = os.pipe()
    read = ctypes.CDLL(None, use_errno=True).read

    async def stock_wait() -> bool:
        await trio.lowlevel.checkpoint()
        return True

    async def next_request() -> int:
        inside: Any = pyfuse3
        assert await inside._wait_fuse_readable()
        return -int(ctypes.get_errno()) if read(device, ctypes.create_string_buffer(1), 1) < 0 else 0

    monkeypatch.setattr(loop, "_stock_wait", stock_wait)
    monkeypatch.setattr(pyfuse3, "_wait_fuse_readable", stock_wait)
    if not known:
        monkeypatch.setattr(pyfuse3, "__version__", "99.0")
    try:
        assert loop.install(lambda: False, bursts=bursts) is known
        assert trio.run(next_request) == -errno.EINTR
        if known:
            loop.end()
            assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    finally:
        os.close(device)
        os.close(other_end)


def test_a_family_in_many_runs_is_listed_whole() -> None:
    """More runs than a reader remembers."""
    toy = Toy()
    toy.members = {*range(0, 6000, 2), *range(3001, 3100)}
    reader = open_directory(toy.tree, toy.family)
    listed: list[tuple[bytes, int]] = []
    cookie = 0
    while piece := list(itertools.islice(reader.entries(cookie), 170)):
        listed += [(name, ino) for name, ino, _ in piece]
        cookie = piece[-1][2]
    assert len(listed) == len(toy.members)
    assert dict(listed) == {b"memory%d" % n: toy.tree.lookup(toy.family, b"memory%d" % n) for n in toy.members}


async def test_readdir_tells_the_attributes_that_getattr_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each entry its own, whatever was told before, and whether or not somebody changed one of them."""
    fields = [name for name in dir(pyfuse3.EntryAttributes) if name.startswith("st_")]

    def numbers(entry: Any) -> dict[str, int]:
        return {name: getattr(entry, name) for name in fields}

    def reply(token: dict[bytes, Any], name: bytes, entry: Any, _cookie: int) -> bool:
        token[name] = numbers(entry)
        return True

    monkeypatch.setenv("FAKESYSFS_PYFUSE3", "documented")
    monkeypatch.setattr(pyfuse3, "readdir_reply", reply)
    toy = Toy()
    operations = Operations(Sysroot(toy), lambda: None)
    caller: Any = SimpleNamespace(pid=1, uid=0)
    for changed in (None, "/value", "/family/memory7"):
        if changed is not None:
            toy.tree.setattr(toy.tree.walk(changed), mode=0o500)
        for path in ("/", "/device", "/family", "/device"):
            told: Any = {}
            parent = toy.tree.walk(path)
            await operations.readdir(await operations.opendir(parent, caller), 0, told)
            assert (told.pop(b".")["st_ino"], told.pop(b"..")["st_ino"]) == (parent, 1)
            for name, stat in told.items():
                assert stat == numbers(await operations.lookup(parent, name, caller)), (path, name)


def test_missing_device_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mount_module, "_DEVICE", str(tmp_path / "fuse"))
    with pytest.raises(MountError) as raised:
        check_device()
    why = f"{tmp_path}/fuse is missing: load the module with `modprobe fuse`; {IN_A_CONTAINER}"
    assert str(raised.value) == f"FUSE does not work here: {why}"
    assert raised.value.status == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_closed_device_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "fuse").touch(0o000)
    monkeypatch.setattr(mount_module, "_DEVICE", str(tmp_path / "fuse"))
    with pytest.raises(MountError) as raised:
        check_device()
    why = f"{tmp_path}/fuse may not be opened by user {os.geteuid()} (mode 0): be root, or `chmod 666 /dev/fuse`"
    assert str(raised.value) == f"FUSE does not work here: {why}; {IN_A_CONTAINER}"


def test_table_of_mounts() -> None:
    assert any(mount.point == "/proc" and mount.type == "proc" for mount in mounts())
