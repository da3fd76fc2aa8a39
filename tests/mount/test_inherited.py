"""What a server inherits from its parent, or is given while it serves, ends no mount and hangs no client."""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from fakesysfs.fuse.memory import REFILL_SECONDS, Reserve
from fakesysfs.fuse.mount_table import mounted_at
from tests.mount.served import (
    AS_NOBODY,
    NOBODY,
    PATIENCE_SECONDS,
    ROOT,
    Served,
    as_nobody,
    eventually,
    finished,
    python,
    served,
    shell,
)

pytestmark = pytest.mark.mount

READ_OFTEN = """
import os, sys
for _ in range(3000):
    with open(sys.argv[1] + "/value", "rb", buffering=0) as file:
        file.read()
    os.listdir(sys.argv[1])
"""


@pytest.mark.parametrize(
    "wrapper",
    [
        ("env", "--block-signal=ALRM"),
        ("env", "--block-signal"),
        ("env", "--ignore-signal=ALRM"),
        ("env", "--ignore-signal=CHLD"),
        ("env", "--ignore-signal=TERM"),
        ("nice", "-n", "19"),
        ("prlimit", "--sigpending=0"),
        ("prlimit", "--core=0"),
    ],
    ids=" ".join,
)
def test_no_client_hangs_and_sigterm_ends_it(tmp_path: Path, wrapper: tuple[str, ...]) -> None:
    """Many requests, one client that is killed, a store that changes names: what a blocked timer stops."""
    with served(tmp_path, wrapper=wrapper) as mount, shell("echo NONE > sleep", mount.path) as sleeper:
        eventually(lambda: mount.read("sleep") == "1\n")
        with python(READ_OFTEN, mount.path) as first, python(READ_OFTEN, mount.path) as second:
            sleeper.kill()
            assert mount.write("present", "- 3 3")
            assert [finished(first), finished(second)] == ["", ""]
        assert not (mount / "family/memory3").exists()
        mount.write("wake", "1")
        eventually(lambda: mount.read("sleep") == "0\n")


def test_nohup(tmp_path: Path) -> None:
    with served(tmp_path, wrapper=("nohup",)) as mount:
        mount.server.send_signal(signal.SIGHUP)
        # One signal after the other: the second ends it, and with status 0 only if the first did not.
        assert mount.read("value") == "zero\n"
        mount.server.send_signal(signal.SIGHUP)
        assert mount.read("value") == "zero\n"


@contextmanager
def limited(mount: Served, which: int, limit: int) -> Iterator[None]:
    """Lower a limit of the server."""
    before = resource.prlimit(mount.server.pid, which, (limit, resource.prlimit(mount.server.pid, which)[1]))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # it ended as it should
            resource.prlimit(mount.server.pid, which, before)


def test_no_more_threads(nobodys: Path) -> None:
    """A store that changes names needs only those from the start. Root has no such limit."""
    with served(nobodys, wrapper=AS_NOBODY, owner=NOBODY) as mount:
        assert as_nobody("ls family/memory3 link", mount.path).returncode == 0
        limit = f"prlimit --pid {mount.server.pid} --nproc"
        before = as_nobody(f"{limit} --raw --noheadings --output SOFT").stdout
        assert as_nobody(f"{limit}=1:").returncode == 0
        done = as_nobody("echo - 3 3 > present && ! test -e family/memory3 && echo + 3 3 > present", mount.path)
        assert (done.returncode, done.stderr) == (0, "")
        assert as_nobody("cat family/memory3/state", mount.path).stdout == "state of 3\n"
        assert as_nobody(f"{limit}={before.strip()}:").returncode == 0, "fusermount3 unmounts in the end"


def test_no_more_descriptors(tmp_path: Path) -> None:
    with served(tmp_path) as mount, limited(mount, resource.RLIMIT_NOFILE, 3):
        mount.write("present", "- 3 3")
        assert not (mount / "family/memory3").exists()
        with shell("echo ANY > sleep", mount.path):
            eventually(lambda: mount.read("sleep") == "1\n")
            mount.write("wake", "1")
            eventually(lambda: mount.read("sleep") == "0\n")
        subprocess.run(["fusermount3", "-u", mount.path], check=True)
        assert mount.server.wait(PATIENCE_SECONDS) == 0


LIST_MANY = """
import os, sys
for _ in range(4):
    try:
        os.listdir(sys.argv[1] + "/family")
        with open(sys.argv[1] + "/big", "rb") as file:
            file.read()
    except OSError:
        pass
"""


def test_no_more_memory(tmp_path: Path) -> None:
    """Single requests may be refused."""
    with served(tmp_path) as mount:
        mount.expected_in_log += ["out of memory", "the host may not have forgotten a name"]
        pages = int(Path(f"/proc/{mount.server.pid}/statm").read_text().split()[0])
        with limited(mount, resource.RLIMIT_AS, pages * resource.getpagesize()):
            with pytest.raises(OSError, match="Cannot allocate memory"):
                mount.write("present", "+ 0 2000000")
            with python(LIST_MANY, mount.path) as client:
                assert finished(client) == ""
        assert mount.read("value") == "zero\n"
        mount.write("present", "- 0 2000000")
        assert os.listdir(mount / "family") == []


IN_A_NAMESPACE = """
"$0" -m fakesysfs mount --machine tiny "$1" >/dev/null && cat "$1/control/pid" && read line
"""


@pytest.mark.parametrize("options", ["-m", "-Urm"])
def test_server_ends_with_the_last_process_that_could_use_it(tmp_path: Path, options: str) -> None:
    """A mount namespace would live on with the server, where nobody can reach it."""
    command = ["unshare", options, "sh", "-c", IN_A_NAMESPACE, sys.executable, str(tmp_path)]
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path / "state")}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    ) as user:
        assert user.stdin is not None
        assert user.stdout is not None
        server = os.pidfd_open(int(user.stdout.readline()))
        assert not mounted_at(str(tmp_path)), "it is in its own namespace only"
        assert not readable(server, 0), "it serves as long as the shell lives"
        user.stdin.close()
        assert readable(server, PATIENCE_SECONDS), "it did not end"
        os.close(server)


HIDDEN = """
mount -t proc -o hidepid=invisible proc /proc && cd / || exit 77
$AS_NOBODY "$1" -m fakesysfs mount --machine tiny "$0" >/dev/null || exit
$AS_NOBODY cat "$0/control/kernel"
$AS_NOBODY "$1" -m fakesysfs umount "$0"
"""


def test_server_lives_where_it_cannot_see_who_uses_it(nobodys: Path) -> None:
    (nobodys / "mnt").mkdir()
    os.chown(nobodys / "mnt", NOBODY, NOBODY)
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", HIDDEN, nobodys / "mnt", sys.executable],
        env=os.environ | {"PYTHONPATH": str(ROOT), "AS_NOBODY": " ".join(AS_NOBODY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "hotplug-v3\n", "")


async def test_reserve_is_filled_again(autojump_clock: trio.testing.MockClock) -> None:
    """The handler that runs out of memory releases it."""
    reserve = Reserve()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reserve.keep)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(2):
            assert reserve.is_full()
            reserve.release()
            assert not reserve.is_full()
            await trio.sleep(2 * REFILL_SECONDS)
        nursery.cancel_scope.cancel()


def readable(descriptor: int, seconds: float) -> bool:
    """Whether the descriptor becomes readable in time."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
