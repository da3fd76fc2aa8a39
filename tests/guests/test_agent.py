"""The agent on the host, without a guest: the system calls that it does, and the target made of them."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakesysfs.lab import agent as agents
from fakesysfs.lab.agent import BLOCKED, REPEAT, SKIPPED, STOP, Agent, Iovec, Out, Result, SilentError, call
from fakesysfs.lab.archive import LabError
from fakesysfs.replay import kernel_target
from fakesysfs.replay.kernel_target import KernelTarget
from fakesysfs.replay.target import Messages, Outcome, RaceWriter
from fakesysfs.testing.tasks import Signal


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agent")
    try:
        path = folder / "agent"
        path.write_bytes(agents.program(folder))
    except LabError as error:
        pytest.skip(str(error))
    path.chmod(0o755)
    return path


@pytest.fixture
def agent(program: Path) -> Iterator[Agent]:
    ours, its = socket.socketpair()
    with ours, subprocess.Popen([program, str(its.fileno())], pass_fds=(its.fileno(),)) as process:
        its.close()
        yield Agent(ours)
        process.kill()


def test_a_batch_hands_results_on(agent: Agent, tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    answers = agent.run(
        [
            call("open", path, os.O_RDWR | os.O_CREAT, 0o600),
            call("write", Result(0), b"hello\0there", 11),
            call("lseek", Result(0), 5, os.SEEK_SET),
            call("read", Result(0), Out(100), 100),
            call("fstat", Result(0), Out(144, all=True)),
            call("close", Result(0)),
        ]
    )
    assert [answer.result for answer in answers[1:]] == [11, 5, 6, 0, 0]
    assert answers[3].data == b"\0there"
    assert len(answers[4].data) == 144
    assert Path(path).read_bytes() == b"hello\0there"


def test_a_call_on_what_failed_is_skipped(agent: Agent) -> None:
    answers = agent.run([call("open", "/nonexistent", 0), call("read", Result(0), Out(10), 10), call("access", "/", 0)])
    assert answers[0].result == -errno.ENOENT
    assert (answers[1].status, answers[1].buffers) == (SKIPPED, ())
    assert answers[2].result == 0
    stopped = agent.run([call("access", "/nonexistent", 0, flags=STOP), call("access", "/", 0)])
    assert len(stopped) == 1


def test_a_repeated_call_reads_to_the_end(agent: Agent, tmp_path: Path) -> None:
    content = os.urandom(100_000)
    (tmp_path / "file").write_bytes(content)
    answers = agent.run(
        [call("open", str(tmp_path / "file"), 0), call("read", Result(0), Out(4096), 4096, flags=REPEAT)]
    )
    assert answers[1].data == content
    assert len(answers[1].buffers) == 25
    assert answers[1].result == 0


def test_an_iovec(agent: Agent, tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    parts = (b"one", b"", b"two")
    answers = agent.run([call("open", path, 0o101, 0o600), call("writev", Result(0), Iovec(parts), len(parts))])
    assert answers[1].result == 6
    assert Path(path).read_bytes() == b"onetwo"


def test_a_call_that_sleeps_too_long_is_interrupted(agent: Agent, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    answers = agent.run([call("open", str(tmp_path / "fifo"), os.O_RDONLY), call("access", "/", 0)], patience=1)
    assert (answers[0].result, answers[0].status) == (-errno.EINTR, BLOCKED)
    assert answers[1].result == 0


def test_an_agent_that_has_ended_says_so(program: Path) -> None:
    ours, its = socket.socketpair()
    with ours:
        its.close()
        with pytest.raises(SilentError, match="the guest has ended"):
            Agent(ours).run([call("access", "/", 0)])


def test_an_answer_that_is_cut_off_is_left_out() -> None:
    whole = b"\3" + bytes(7) + b"\0" + b"\1\0\0\0" + b"\3\0\0\0abc"
    assert [answer.data for answer in agents.answers(whole + whole)] == [b"abc", b"abc"]
    for length in range(len(whole)):
        assert len(list(agents.answers(whole + whole[:length]))) == 1


# The target -------------------------------------------------------------------------------------------------------


@pytest.fixture
def target(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> KernelTarget:
    monkeypatch.setattr(kernel_target, "QUIET_SECONDS", 0.1)
    try:
        return KernelTarget(agent)
    except OSError as error:
        pytest.skip(f"the kernel's log or uevents cannot be read here: {error}")


def test_files(target: KernelTarget, tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    assert target.write_file(path, b"text\n", os.O_WRONLY | os.O_CREAT) == Outcome(ret=5)
    assert target.write_file(f"{path}/no", b"", os.O_WRONLY) == Outcome(open_errno=errno.ENOTDIR)
    assert target.read_result(path, 3) == ("data", b"tex")
    assert target.read_result(path, None, None) == ("data", b"text\n")
    assert target.read_result("/nonexistent", None) == ("open_errno", "ENOENT")
    assert target.read_result(str(tmp_path), 10) == ("errno", "EISDIR")
    assert target.read_text(path) == "text\n"
    found = target.stat(path)
    ours = os.lstat(path)
    assert found == (ours.st_mode, ours.st_nlink, ours.st_uid, ours.st_gid, ours.st_size)
    assert target.ls(str(tmp_path)) == ["file"]
    with pytest.raises(FileNotFoundError):
        target.ls("/nonexistent")
    with pytest.raises(NotADirectoryError):
        target.ls(path)


def test_many_paths_at_once_are_as_one_after_the_other(target: KernelTarget, tmp_path: Path) -> None:
    paths = []
    for number in range(1100):  # more than a batch has calls
        paths.append(str(tmp_path / str(number)))
        Path(paths[-1]).write_text(str(number), encoding="ascii")
    paths[500] = "/nonexistent"
    assert target.read_results(paths) == [target.read_result(path, 65536) for path in paths]
    assert [
        names if isinstance(names, list) else names.errno for names in target.ls_all([str(tmp_path), "/nonexistent"])
    ] == [
        os.listdir(tmp_path),
        errno.ENOENT,
    ]


def test_calls_by_name(target: KernelTarget, tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    descriptor = target.open(path, os.O_RDWR | os.O_CREAT)
    assert target.call("writev", descriptor, [b"a", b"bc"]) == 3
    assert target.call("lseek", descriptor, 1, os.SEEK_SET) == 1
    assert target.read(descriptor, 10) == b"bc"
    assert target.read(descriptor, 10, 2) == b"c"
    assert target.write(descriptor, b"z", 0) == 1
    assert target.call("poll", descriptor) == 1
    assert stat.S_ISREG(target.call("fstat", descriptor).mode)
    target.call("ftruncate", descriptor, 1)
    target.close(descriptor)
    assert Path(path).read_bytes() == b"z"
    target.call("chmod", path, 0o640)
    assert stat.S_IMODE(target.call("stat", path).mode) == 0o640
    target.call("symlink", "file", f"{path}.link")
    assert target.readlink(f"{path}.link") == "file"
    target.call("utime", path, [1, 2])
    assert (os.stat(path).st_atime, os.stat(path).st_mtime) == (1, 2)
    assert target.call("listxattr", path) == []
    assert target.call("statfs", path)[1] == os.statvfs(path).f_namemax
    with pytest.raises(PermissionError if os.geteuid() else OSError):
        target.call("rmdir", "/proc/self")


def test_a_command(target: KernelTarget) -> None:
    result = target.sh("echo out; echo err >&2; exit 3", None)
    assert (result.rc, result.stdout, result.stderr) == (3, "out\n", "err\n")


def test_a_process_in_the_background(target: KernelTarget, tmp_path: Path) -> None:
    done = target.spawn(str(tmp_path / "nothing"), b"x")
    assert target.wait(done)
    assert done.outcome() == Outcome(open_errno=errno.ENOENT)
    os.mkfifo(tmp_path / "fifo")
    waiting = target.spawn(str(tmp_path / "fifo"), b"x", alarm=30)
    assert waiting.letter == "S"
    assert target.wait(waiting)  # which sends the alarm
    assert waiting.outcome() == Outcome(open_errno=errno.EINTR)
    killed = target.spawn(str(tmp_path / "fifo"), b"x")
    target.signal(killed, Signal.SIGKILL)
    assert target.wait(killed)
    assert killed.letter == "finished"
    assert killed.outcome() == Outcome(killed=True)


def test_a_race(target: KernelTarget, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    writers = [
        RaceWriter("a", str(tmp_path / "file"), [b"one", b"two"]),
        RaceWriter("b", str(tmp_path / "no"), [b"x"]),
    ]
    result = target.race(writers, str(tmp_path / "file"))
    assert result.outcomes == {("a", b"one", "ok"), ("a", b"two", "ok"), ("b", b"x", "open ENOENT")}
    assert result.values <= {b"", b"one", b"two"}


def test_a_log_line_of_the_kernel(target: KernelTarget) -> None:
    try:
        Path("/dev/kmsg").write_text("<4>fakesysfs: a line\n", encoding="ascii")
    except OSError as error:
        pytest.skip(f"/dev/kmsg cannot be written: {error}")
    assert "<4>fakesysfs: a line" in target.drain().dmesg
    assert "<4>fakesysfs: a line" not in target.drain().dmesg


def test_of_a_warning_only_its_first_line_is_kept() -> None:
    lines = [
        "<6>kmem dax0.0: one", "<4>------------[ cut here ]------------", "<4>WARNING: drivers/dax/kmem.c:1 at f",
        "<4>Modules linked in: kmem", "<4>---[ end trace 0 ]---", "<4>page: refcount:1", "<4>page dumped because: x",
    ]  # fmt: skip
    assert kernel_target.relevant(lines) == [lines[0], lines[2], lines[6]]


def test_messages_are_waited_for_only_while_something_runs(target: KernelTarget, tmp_path: Path) -> None:
    target.drain()
    before = target.agent.round_trips
    target.await_messages(1, 1)
    assert target.agent.round_trips == before
    assert isinstance(target.drain(), Messages)


def test_signals_are_those_of_linux() -> None:
    assert kernel_target._SIGNALS == {Signal.SIGALRM: signal.SIGALRM, Signal.SIGKILL: signal.SIGKILL}
