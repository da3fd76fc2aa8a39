"""Stores that sleep: who waits, who does not, and who wakes them."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.mount.served import PATIENCE_SECONDS, Served, eventually, finished, python, shell

pytestmark = pytest.mark.mount

WRITE = """
import os, signal, sys
class Stopped(Exception): pass
def stop(*_): raise Stopped
signal.signal(signal.SIGUSR1, stop)
file = os.open(sys.argv[1], os.O_WRONLY)
print("open", flush=True)
try:
    os.write(file, sys.argv[2].encode())
    print("written")
except Stopped:
    print("stopped")
"""


@pytest.fixture(autouse=True)
def _nobody_sleeps(mount: Served) -> None:
    mount.write("present", "+ 0 31")


def sleeping(mount: Served) -> bool:
    return mount.read("sleep") == "1\n"


def test_others_go_on(mount: Served) -> None:
    with python(WRITE, mount / "sleep", "NONE") as sleeper:
        eventually(lambda: sleeping(mount))
        assert mount.read("value")
        # what the store removed before it went to sleep is gone for everybody
        eventually(lambda: not (mount / "family/memory0").exists())
        assert (mount / "family/memory1").exists()
        mount.write("wake", "1")
        assert finished(sleeper) == "open\nwritten\n"
        assert not (mount / "family/memory1").exists()


def test_second_writer_of_the_same_attribute_is_answered(mount: Served) -> None:
    for _ in range(20):
        with python(WRITE, mount / "sleep", "NONE") as sleeper:
            eventually(lambda: sleeping(mount))
            for _ in range(3):
                with shell("echo NONE > sleep", mount.path) as second:
                    assert second.wait(5) != 0
            # neither does the VFS wait for the store's inode elsewhere
            subprocess.run(["chmod", "644", mount / "sleep"], timeout=5, check=True)
            mount.write("wake", "1")
            finished(sleeper)


def test_signal_interrupts(mount: Served) -> None:
    with python(WRITE, mount / "sleep", "ANY") as sleeper:
        eventually(lambda: sleeping(mount))
        sleeper.send_signal(signal.SIGUSR1)
        assert finished(sleeper) == "open\nstopped\n"
    assert not sleeping(mount)


def test_handled_signal_does_not_end_a_killable_sleep(mount: Served) -> None:
    with python(WRITE, mount / "sleep", "FATAL") as sleeper:
        eventually(lambda: sleeping(mount))
        sleeper.send_signal(signal.SIGUSR1)
        with python(WRITE, mount / "sleep", "seconds 0.2") as other:
            finished(other)
        assert sleeping(mount)
        mount.write("wake", "1")
        # the write had succeeded by then, whatever the handler does after it
        assert finished(sleeper) == "open\nstopped\n"
    # the kernel restarted the system call meanwhile: the handler has run, nothing is pending
    assert not (mount / "family/memory1").exists()


def test_signal_that_came_during_a_deaf_sleep_is_pending_after_it(mount: Served) -> None:
    with python(WRITE, mount / "sleep", "NONE") as sleeper:
        eventually(lambda: sleeping(mount))
        sleeper.send_signal(signal.SIGUSR1)
        with python(WRITE, mount / "sleep", "seconds 0.1") as other:
            finished(other)
        assert sleeping(mount)
        mount.write("wake", "1")
        assert finished(sleeper) == "open\nstopped\n"
    assert (mount / "family/memory1").exists()


@pytest.mark.parametrize("how", ["seconds 60 ANY", "seconds 0.5 NONE"])
def test_signal_cuts_time_short_where_the_kernel_looks(mount: Served, how: str) -> None:
    with python(WRITE, mount / "sleep", how) as sleeper:
        eventually(lambda: sleeping(mount))
        sleeper.send_signal(signal.SIGUSR1)
        assert finished(sleeper) == "open\nstopped\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("how", ["ANY", "FATAL"])
def test_killed_writer(mount: Served, number: signal.Signals, how: str) -> None:
    with python(WRITE, mount / "sleep", how) as sleeper:
        eventually(lambda: sleeping(mount))
        sleeper.send_signal(number)
        assert sleeper.wait(PATIENCE_SECONDS) == -number
    eventually(lambda: not sleeping(mount))


def test_thread_that_did_not_open_is_interrupted(mount: Served) -> None:
    """read(2) and write(2) come without their caller; the opener's other threads are watched as well."""
    code = """
import os, signal, sys, threading
file = os.open(sys.argv[1], os.O_WRONLY)
def write():
    os.write(file, b"ANY")
thread = threading.Thread(target=write)
thread.start()
thread.join()
"""
    with python(code, mount / "sleep") as sleeper:
        eventually(lambda: sleeping(mount))
        sleeper.send_signal(signal.SIGKILL)
        assert sleeper.wait(PATIENCE_SECONDS) == -signal.SIGKILL
    eventually(lambda: not sleeping(mount))


def test_writer_that_inherited_the_file(mount: Served) -> None:
    """The opener lives on, another writes: `exec 3>sleep; sh -c 'echo >&3'`."""
    with shell(
        "exec 3>sleep; echo opener; (exec sh -c 'echo $$; echo ANY >&3; echo ended'); exec sleep 60", mount.path
    ) as opener:
        assert opener.stdout is not None
        assert opener.stdout.readline() == "opener\n"
        writer = int(opener.stdout.readline())
        eventually(lambda: sleeping(mount))
        os.kill(writer, signal.SIGKILL)
        eventually(lambda: not sleeping(mount))


def test_reader_that_sleeps(mount: Served) -> None:
    with shell("cat wait_for_wake", mount.path) as reader:
        with shell("cat wait_for_wake", mount.path) as killed:
            eventually(lambda: mount.read("value"))
            killed.kill()
            killed.wait(PATIENCE_SECONDS)
        while reader.poll() is None:
            mount.write("wake", "1")
        assert finished(reader) == "awake\n"


def test_readers_whose_other_threads_opened(mount: Served) -> None:
    """Two processes wait for the same file, each in another thread than the one that opened it; one is killed."""
    code = """
import os, sys, threading
file = os.open(sys.argv[1], os.O_RDONLY)
thread = threading.Thread(target=os.read, args=(file, 100))
thread.start()
print(thread.native_id, flush=True)
thread.join()
"""

    def waits(reader: subprocess.Popen[str]) -> int:
        assert reader.stdout is not None
        thread = int(reader.stdout.readline())
        eventually(lambda: Path(f"/proc/{thread}/wchan").read_text() == "request_wait_answer")
        return thread

    with python(code, mount / "wait_for_wake") as reader, python(code, mount / "wait_for_wake") as killed:
        waits(reader)
        waits(killed)
        for _ in range(200):  # while it is found out who waits
            assert mount.read("value")
        killed.kill()
        assert killed.wait(PATIENCE_SECONDS) == -signal.SIGKILL
        while reader.poll() is None:
            mount.write("wake", "1")


def test_hundreds_sleep_and_one_reads(mount: Served) -> None:
    """pyfuse3's default of 99 tasks would end here."""
    code = """
import os, sys, threading
def read():
    file = os.open(sys.argv[1], os.O_RDONLY)
    os.read(file, 100)
threads = [threading.Thread(target=read) for _ in range(300)]
for thread in threads:
    thread.start()
print("begun", flush=True)
for thread in threads:
    thread.join()
print("ended")
"""
    with python(code, mount / "wait_for_wake") as readers:
        assert readers.stdout is not None
        assert readers.stdout.readline() == "begun\n"
        for _ in range(100):
            assert mount.read("value")
        while readers.poll() is None:
            mount.write("wake", "1")
        assert finished(readers) == "ended\n"
