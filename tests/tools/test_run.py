"""`fakesysfs run` behaves as if the command ran alone, and leaves nothing behind."""

from __future__ import annotations

import concurrent.futures
import errno
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

from fakesysfs.fuse.mount import unmount
from fakesysfs.sandbox import linux
from tests.tools.conftest import AS_NOBODY, PATIENCE_SECONDS, ROOT, Runner, eventually, need


def comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:  # it has just ended
        return ""


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def serves(pid: int) -> bool:
    """Whether it has /dev/fuse open."""
    try:
        return any(os.readlink(file) == "/dev/fuse" for file in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


class Parties:
    """The four of one run of `sleep`, by their process ids outside."""

    def __init__(self, run: Runner, *options: str) -> None:
        self.launcher = run.start(*options, "--", "sleep", "1000", stderr=subprocess.PIPE)
        eventually(lambda: any(comm(pid) == "sleep" for pid in run.alive()), "the start")
        pid = next(pid for pid in run.alive() if comm(pid) == "sleep")
        self.command = pid
        self.init = int(re.findall(r"PPid:\t(\d+)", Path(f"/proc/{pid}/status").read_text())[0])
        (self.server,) = [child for child in children(self.init) if child != pid]

    def end(self) -> tuple[int, str]:
        """How the launcher ended and what it said."""
        _, said = self.launcher.communicate(timeout=PATIENCE_SECONDS)
        return self.launcher.returncode, said


# Exit status -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "status"), [("exit 7", 7), ("true", 0), ("kill -9 $$", -9), ("kill -TERM $$", -15)]
)
def test_exit_status_is_the_commands(run: Runner, command: str, status: int) -> None:
    assert run("--", "sh", "-c", command).returncode == status


def test_what_cannot_be_executed(run: Runner, tmp_path: Path) -> None:
    done = run("--", "no such command")
    assert (done.returncode, done.stderr) == (127, "fakesysfs: no such command: No such file or directory\n")
    done = run("--", tmp_path)
    assert (done.returncode, done.stderr) == (126, f"fakesysfs: {tmp_path}: Permission denied\n")


def test_a_command_without_a_name(run: Runner) -> None:
    done = run("--", "")
    assert (done.returncode, done.stderr) == (127, "fakesysfs: : No such file or directory\n")


@pytest.mark.parametrize("command", ["./own-script", "own-script"])
def test_a_script_that_does_not_say_of_what(run: Runner, tmp_path: Path, command: str) -> None:
    """It is sh's, as with env, nice, sudo and every other program that starts commands."""
    script = tmp_path / "own-script"
    script.write_text('echo "$0 $1"; exit 3\n')
    script.chmod(0o755)
    environment = run.environment | {"PATH": f"{os.environ['PATH']}:{tmp_path}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        run.line("--", command, "argument"), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (3, f"{command if '/' in command else script} argument\n"), done.stderr


@pytest.mark.parametrize("options", [["--machine", "nosuch"], ["--kernel", "nosuch"], ["--nosuch"]])
def test_wrong_use(run: Runner, options: list[str]) -> None:
    done = run(*options, "--", "echo", "not run")
    assert done.returncode == 2
    assert done.stdout == ""
    assert options[-1] in done.stderr


def test_a_machine_from_a_pipe(run: Runner) -> None:
    line = " ".join(map(str, run.line("--machine")))
    text = resources.files("fakesysfs.machine").joinpath("machines", "tiny.toml").read_text()
    script = f"{line} <(printf %s \"$0\") -- sh -c 'cat $FAKESYSFS_CONTROL/machine.toml'"
    done = subprocess.run(
        ["bash", "-c", script, text], cwd=ROOT, env=run.environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, text), done.stderr


def test_a_machine_by_a_path_from_where_the_user_is(run: Runner, tmp_path: Path) -> None:
    """The init has left that directory before it reads the machine."""
    (tmp_path / "own.toml").write_text('extends = "tiny"\ntitle = "mine"\n')
    show = ["--", "sh", "-c", "cat $FAKESYSFS_CONTROL/machine.toml"]
    line = run.line("--machine", "own.toml", *show)
    done = subprocess.run(line, cwd=tmp_path, env=run.environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, 'extends = "tiny"\ntitle = "mine"\n'), done.stderr


def test_a_server_that_nobody_wants_any_more() -> None:
    """As when the machine is wrong and that was found out before the server could ask."""
    script = """
import os, signal
from fakesysfs.sandbox import server
started = server.start(server.Fake("default", "7.2"), "/nonexistent", private=True)
os.kill(started.pid, signal.SIGSTOP)
os.waitpid(started.pid, os.WUNTRACED)
started.machine.close()
started.answer.close()
os.kill(started.pid, signal.SIGCONT)
print(os.waitstatus_to_exitcode(os.waitpid(started.pid, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("1\n", "")


@pytest.mark.parametrize("mount", [False, True])
def test_a_machine_that_is_wrong(run: Runner, tmp_path: Path, mount: bool) -> None:  # noqa: FBT001
    (tmp_path / "mnt").mkdir()
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("block_size = 17\n")
    options: list[str | Path] = ["--mount", tmp_path / "mnt"] if mount else []
    done = run("--machine", wrong, *options, "--", "echo", "not run")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"fakesysfs: {wrong}: ")
    assert done.stderr.count("\n") == 1


def test_without_a_command_it_is_a_shell(run: Runner) -> None:
    run.environment["SHELL"] = "/bin/sh"
    assert run(given="echo $FAKESYSFS_CONTROL; exit 3").returncode == 3
    run.environment["SHELL"] = "/bin/echo"
    assert run().stdout == "\n"


def test_the_command_may_do_without_dashes(run: Runner) -> None:
    assert run("--kernel", "7.2", "sh", "-c", "cat $FAKESYSFS_CONTROL/kernel").stdout == "7.2\n"


# Streams ---------------------------------------------------------------------------------------------------------


def test_streams(run: Runner) -> None:
    done = run("--", "sh", "-c", "cat; echo error >&2", given="text")
    assert (done.stdout, done.stderr) == ("text", "error\n")


def test_the_streams_end_when_the_command_closes_them(run: Runner) -> None:
    """Neither of our own processes keeps them."""
    script = "exec >&- <&-; exec sleep 1000"
    process = run.start("--", "sh", "-c", script, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.read() == ""
    assert process.poll() is None
    process.stdout.close()

    def nobody_reads() -> bool:
        try:
            os.write(process.stdin.fileno(), b"x")  # type: ignore[union-attr]
        except BrokenPipeError:
            return True
        return False

    eventually(nobody_reads)
    process.stdin.close()
    process.terminate()
    assert process.wait(PATIENCE_SECONDS) == -signal.SIGTERM


def test_other_descriptors_are_the_commands(run: Runner) -> None:
    reader, writer = os.pipe()
    script = f"echo text >&{writer}; exec {writer}>&-; sleep 1000"
    with run.start("--", "bash", "-c", script, pass_fds=[writer]) as process:
        os.close(writer)
        with open(reader) as file:
            assert file.read() == "text\n"
        process.terminate()


def test_closed_streams_stay_closed(run: Runner) -> None:
    line = " ".join(map(str, run.line("--")))
    script = f"{line} sh -c 'ls /proc/self/fd | wc -l; exec 9>&1 8>&0' <&-; {line} sh -c 'exit 5' <&- >&- 2>&-; echo $?"
    done = subprocess.run(
        ["sh", "-c", script], cwd=ROOT, env=run.environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "3\n5\n"
    assert "8: " in done.stderr or "0: " in done.stderr


def test_python_leaves_no_signal_ignored(run: Runner) -> None:
    command = ["grep", "-E", "Sig(Ign|Blk)", "/proc/self/status"]
    alone = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run("--", *command).stdout == alone.stdout


# Signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_reach_the_command(run: Runner, number: signal.Signals) -> None:
    parties = Parties(run)
    parties.launcher.send_signal(number)
    assert parties.end() == (-number, "")


def test_the_command_may_handle_a_signal(run: Runner) -> None:
    script = "trap 'echo got; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    with run.start("--", "sh", "-c", script, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.stdout.read() == "got\n"
        assert process.wait(PATIENCE_SECONDS) == 5


def test_it_stops_when_the_command_stops(run: Runner) -> None:
    parties = Parties(run)
    os.kill(parties.command, signal.SIGSTOP)
    assert os.WIFSTOPPED(os.waitpid(parties.launcher.pid, os.WUNTRACED)[1])
    parties.launcher.send_signal(signal.SIGCONT)
    eventually(lambda: "(stopped)" not in Path(f"/proc/{parties.command}/status").read_text(), "going on")
    parties.launcher.terminate()
    assert parties.end() == (-signal.SIGTERM, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_before_the_command_is_there(run: Runner, number: signal.Signals) -> None:
    """They wait for it. All get them, as with Ctrl-C, and nobody says anything."""
    for _ in range(3):
        process = run.start("--", "sleep", "1000", stderr=subprocess.PIPE, start_new_session=True)
        eventually(lambda: len(run.alive()) > 1, "the start")
        os.killpg(process.pid, number)
        _, said = process.communicate(timeout=PATIENCE_SECONDS)
        assert (process.returncode, said) == (-number, "")


# Whoever dies ----------------------------------------------------------------------------------------------------


def test_killed_launcher(run: Runner) -> None:
    parties = Parties(run)
    parties.launcher.kill()
    assert parties.end() == (-9, "")


def test_killed_server(run: Runner) -> None:
    parties = Parties(run)
    os.kill(parties.server, signal.SIGKILL)
    assert parties.end() == (1, "fakesysfs: the server was killed by signal 9, so the command was ended\n")


def test_killed_init(run: Runner) -> None:
    parties = Parties(run)
    os.kill(parties.init, signal.SIGKILL)
    assert parties.end() == (1, "fakesysfs: the init of the run was killed by signal 9, so the command was ended\n")


def test_killed_command(run: Runner) -> None:
    parties = Parties(run)
    os.kill(parties.command, signal.SIGKILL)
    assert parties.end() == (-9, "")


def test_what_the_command_leaves_behind_is_ended(run: Runner) -> None:
    script = "setsid sleep 1000 & setsid sh -c 'trap : TERM HUP; sleep 1000' & exit 4"
    assert run("--", "sh", "-c", script).returncode == 4


@pytest.mark.parametrize("victim", ["launcher", "server", "init", "command", "nobody"])
def test_the_same_with_a_mount_outside(run: Runner, tmp_path: Path, victim: str) -> None:
    with run.start("--mount", tmp_path, "--", "sh", "-c", "echo $$; sleep 1000", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert (tmp_path / "sys/bus/dax").is_dir()
        command = next(pid for pid in run.alive() if comm(pid) == "sh")
        parents = re.findall(r"PPid:\t(\d+)", Path(f"/proc/{command}/status").read_text())
        server = int((tmp_path / "control/pid").read_text())
        pids = {"launcher": process.pid, "server": server, "init": int(parents[0]), "command": command}
        if victim == "nobody":
            process.terminate()
        else:
            os.kill(pids[victim], signal.SIGKILL)
        process.wait(PATIENCE_SECONDS)
    eventually(lambda: not os.path.ismount(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_the_mount_outside_is_the_same_machine(run: Runner, tmp_path: Path) -> None:
    state = "sys/devices/system/memory/memory70/state"
    done = run("--mount", tmp_path, "--", "sh", "-c", f"echo offline > /{state}; cat {tmp_path}/{state}")
    assert (done.returncode, done.stdout) == (0, "offline\n")


def test_a_mountpoint_that_cannot_be(run: Runner, tmp_path: Path) -> None:
    done = run("--mount", tmp_path / "nosuch", "--", "true")
    assert done.returncode == 2
    assert "mkdir" in done.stderr


# The terminal ----------------------------------------------------------------------------------------------------


class Terminal:
    """A terminal with a session of its own in it."""

    def __init__(self, run: Runner, *command: str) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
        self.name = os.ttyname(slave)

        def take_terminal() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            command, cwd=ROOT, env=run.environment, stdin=slave, stdout=slave, stderr=slave,
            start_new_session=True, preexec_fn=take_terminal,  # noqa: PLW1509  no threads here
        )  # fmt: skip
        os.close(slave)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, text: str) -> str:
        """Read until `text` was seen; returns what came since the last time."""
        while text not in self.seen:
            assert select.select([self.master], [], [], PATIENCE_SECONDS)[0], f"{text!r} never came: {self.seen!r}"
            try:
                self.seen += os.read(self.master, 4096).decode()
            except OSError:
                raise AssertionError(f"{text!r} never came: {self.seen!r}") from None
        before, _, self.seen = self.seen.partition(text)
        return before


@pytest.fixture
def line(run: Runner) -> str:
    return " ".join(map(str, run.line()))


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.master)


def test_the_terminal_has_its_name_and_size(run: Runner, terminals: list[Terminal]) -> None:
    terminals.append(terminal := Terminal(run, *map(str, run.line("--", "sh", "-c", "tty; stty size; echo done"))))
    assert terminal.expect("done").split() == [terminal.name, "33", "101"]
    assert terminal.process.wait(PATIENCE_SECONDS) == 0


def test_control_c(run: Runner, terminals: list[Terminal]) -> None:
    terminals.append(terminal := Terminal(run, *map(str, run.line("--", "sh", "-c", "echo ready; exec sleep 1000"))))
    terminal.expect("ready")
    terminal.type("\x03")
    assert terminal.process.wait(PATIENCE_SECONDS) == -signal.SIGINT


def test_control_c_is_the_commands(run: Runner, terminals: list[Terminal]) -> None:
    """It is told once, and may go on."""
    script = "trap 'echo caught' INT; echo ready; while :; do sleep 0.05; done"
    terminals.append(terminal := Terminal(run, *map(str, run.line("--", "sh", "-c", script))))
    terminal.expect("ready")
    for _ in range(2):
        terminal.type("\x03")
        assert terminal.expect("caught").count("caught") == 0
    terminal.type("\x1c")
    assert terminal.process.wait(PATIENCE_SECONDS) == -signal.SIGQUIT


def test_job_control(run: Runner, line: str, terminals: list[Terminal]) -> None:
    """Ctrl-Z and fg of a shell outside."""
    terminals.append(terminal := Terminal(run, "bash", "--norc", "-i"))
    terminal.type("PS1='> '; stty -echo\n")
    terminal.expect("> ")
    terminal.type(f"{line} -- sh -c 'echo rea''dy; read answer; echo \"<$answer>\"'\n")
    terminal.expect("ready")
    terminal.type("\x1a")
    terminal.expect("Stopped")
    terminal.type("fg\n")
    terminal.expect("run")
    terminal.type("text\n")
    terminal.expect("<text>")
    terminal.type("exit\n")
    assert terminal.process.wait(PATIENCE_SECONDS) == 0


def test_an_interactive_shell_inside(run: Runner, line: str, terminals: list[Terminal]) -> None:
    """It has job control, and the terminal belongs to whoever had it before when it ends."""
    script = f'{line} -- bash --norc -i; read answer; echo "<$answer>"'
    terminals.append(terminal := Terminal(run, "sh", "-c", script))
    terminal.type("PS1='> '; stty -echo\n")
    terminal.expect("> ")
    terminal.type("sleep 1000\n")
    eventually(lambda: any(comm(pid) == "sleep" for pid in run.alive()), "the sleep")
    terminal.type("\x1a")
    terminal.expect("Stopped")
    terminal.type("kill %1; exit 0; exit 0\n")
    eventually(lambda: not any(comm(pid) == "bash" for pid in run.alive()), "the shell's end")
    terminal.type("text\n")
    terminal.expect("<text>")
    assert terminal.process.wait(PATIENCE_SECONDS) == 0


NEW_TERMINAL = "import os; a, b = os.openpty(); os.write(b, b'hi'); print(os.ttyname(b), os.read(a, 2).decode(), 'end')"


def test_new_terminals_inside(run: Runner) -> None:
    said = run("--", sys.executable, "-c", NEW_TERMINAL).stdout
    assert re.fullmatch(r"/dev/pts/\d+ hi end\n", said)


def test_terminals_of_an_ordinary_user(run_as_nobody: Runner, terminals: list[Terminal]) -> None:
    """The one outside keeps its name; new ones get others, also where the host's /dev/pts/ptmx is closed."""
    need("/usr/bin/python3")  # ours may lie where only root may look
    run = run_as_nobody
    script = f'tty; tty >&2; /usr/bin/python3 -c "{NEW_TERMINAL}"'
    opened = [Terminal(run, *map(str, run.line("--", "sh", "-c", script))) for _ in range(2)]
    terminals += opened
    for terminal in opened:
        said = terminal.expect("end").split()
        assert said[:2] == [terminal.name, terminal.name]
        assert re.fullmatch(r"/dev/pts/\d+", said[2])
        assert said[2] != terminal.name
        assert said[3] == "hi"


# The view --------------------------------------------------------------------------------------------------------


def test_dev(run: Runner) -> None:
    script = """
    head -c 2 /dev/zero | od -An -tx1; : > /dev/null; head -c 9 /dev/urandom | wc -c
    echo full 2>/dev/null > /dev/full || echo full; stat -c %F /dev/dax0.0; cat /dev/stdin; test -c /dev/fuse
    : > /dev/shm/fakesysfs-test; rm /dev/shm/fakesysfs-test
    """
    done = run("--", "bash", "-euc", script, given="text")
    assert done.stdout.split() == ["00", "00", "9", "full", "character", "special", "file", "text"], done.stderr


def test_proc(run: Runner) -> None:
    assert "dax0.0" in run.shell("cat /proc/iomem")
    assert run.shell("cat /proc/cmdline") == run.shell("cat $FAKESYSFS_CONTROL/../proc/cmdline")
    assert run.shell("grep MemTotal /proc/meminfo").split()[1] == str(10 << 20)
    assert run.shell("test -d /proc/$$/fd; cat /proc/sys/kernel/tainted") == "0\n"


def test_processes_outside_are_not_seen(run: Runner) -> None:
    need("ps")
    assert len(run.shell("ps -e -o pid=").split()) < 6


def test_environment(run: Runner) -> None:
    script = "echo $SYSTEMD_DEVICE_VERIFY_SYSFS; cat $FAKESYSFS_CONTROL/kernel; command -v modprobe"
    assert run.shell(script).split() == ["0", "hotplug-v3", "/dev/.fakesysfs/bin/modprobe"]


def test_working_directory(run: Runner) -> None:
    done = subprocess.run(
        [*map(str, run.line("--", "ls"))], cwd="/sys/bus", env=run.environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "dax" in done.stdout.split()


def test_network(run: Runner) -> None:
    assert "1: lo" not in run.shell("cat /proc/net/dev")
    mine = os.readlink("/proc/self/ns/net") + "\n"
    assert run("--", "readlink", "/proc/self/ns/net").stdout != mine
    assert run("--host-network", "--", "readlink", "/proc/self/ns/net").stdout == mine


def test_no_uevent_of_the_host_gets_in(run: Runner) -> None:
    if os.geteuid():
        pytest.skip("only root can make the host send one")
    script = """
import select, socket, sys
events = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 15)
events.bind((0, 1))
print("ready", flush=True)
sys.stdin.read(1)
print(select.select([events], [], [], 0)[0])
"""
    line = ("--", sys.executable, "-c", script)
    with run.start(*line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        Path("/sys/devices/virtual/mem/null/uevent").write_text("change")
        assert process.communicate("x", timeout=PATIENCE_SECONDS)[0] == "[]\n"


def test_loopback_is_up(run: Runner) -> None:
    script = "import socket; socket.create_server(('127.0.0.1', 0)); print('up')"
    assert run("--", sys.executable, "-c", script).stdout == "up\n"


def test_debugfs_is_in_the_list_of_mounts(run: Runner) -> None:
    """Where the kernel's own tests of memory hotplug look for error injection: `mount -t debugfs`."""
    script = """
    where=$(mount -t debugfs | head -1 | awk '{ print $3 }'); ls -d "$where"
    mount --types=ext4,debugfs | grep -c 'type debugfs'; mount | grep -c ' /sys/kernel/debug type debugfs'
    mount -t nodebugfs | grep -c 'type debugfs' || :; mount -t proc | grep -c 'type debugfs' || :
    mount -V | grep -c util-linux; { mount --no-such-option 2>&1 || :; } | grep -c no-such-option
    """
    assert run.shell(script).split() == ["/sys/kernel/debug", "1", "1", "0", "0", "1", "1"]


def test_reset_keeps_the_view(run: Runner) -> None:
    """The mounts at /sys, /dev, /proc live on; open files of the old machine do not."""
    script = """
    cd /sys/bus; exec 5</sys/devices/system/memory/memory70/state
    echo offline > /sys/devices/system/memory/memory70/state
    echo 1 > $FAKESYSFS_CONTROL/reset
    cat <&5 && exit 1
    cat /sys/devices/system/memory/memory70/state
    echo /sys/bus/* /dev/dax*
    grep -c dax0.0 /proc/iomem; dmesg | wc -l
    """
    lines = run.shell(script).splitlines()
    assert lines[0] == "online"
    assert "/sys/bus/dax " in lines[1]
    assert lines[1].endswith("/dev/dax0.0")
    assert lines[2] == "1"
    assert int(lines[3]) > 0


def test_other_users_inside_see_it(run: Runner) -> None:
    if os.geteuid():
        pytest.skip("only root has other users inside")
    command = f"{' '.join(AS_NOBODY)} sh -c 'cat /sys/devices/system/memory/block_size_bytes; id -u'"
    assert run.shell(command).split() == ["8000000", "65534"]


def test_a_run_inside_a_run(run: Runner) -> None:
    """There can be no new /proc then, so it does without a PID namespace and ends what is left itself."""
    need("ps")
    inner = " ".join(map(str, run.line("--kernel", "7.2", "--")))
    innermost = "'setsid sleep 1000 & cat $FAKESYSFS_CONTROL/kernel; exit 3'"
    script = f"{inner} sh -c {innermost} || echo $?; ps -e -o comm="
    lines = run.shell(script).split()
    assert lines[:2] == ["7.2", "3"]
    assert "sleep" not in lines


# What is missing -------------------------------------------------------------------------------------------------


def one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2
    assert done.stderr.startswith("fakesysfs: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize("kind", ["user", "mnt", "net", "pid"])
def test_no_namespaces(run: Runner, kind: str) -> None:
    setting = f"user.max_{kind}_namespaces"
    script = f'echo 0 > /proc/sys/{setting.replace(".", "/")}; exec "$@"'
    run.wrapper = ["unshare", "-Ur", "sh", "-c", script, "sh"]
    assert f"{setting} is 0" in one_sentence(run("--", "true"))
    if kind == "net":
        assert run("--host-network", "--", "true").returncode == 0


def test_too_many_namespaces(run: Runner) -> None:
    """Of a namespace above: its limit cannot be read in here."""
    run.wrapper = ["unshare", "-Ur", "sh", "-c", 'echo 1 > /proc/sys/user/max_user_namespaces; exec "$@"', "sh"]
    run.wrapper += ["unshare", "-Ur"]
    assert "too many" in one_sentence(run("--", "true"))


DENY = """
import ctypes, os, struct, sys
number, error = int(sys.argv[1]), int(sys.argv[2])
rules = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50000 | error), (0x06, 0, 0, 0x7FFF0000)]
program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *rule) for rule in rules))
filter = ctypes.create_string_buffer(struct.pack("@HP", len(rules), ctypes.addressof(program)))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, filter) == 0
os.execvp(sys.argv[3], sys.argv[3:])
"""
"""Has one system call fail, as a container's seccomp filter does (x86: the numbers are those)."""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of system calls")
@pytest.mark.parametrize(
    ("call", "error", "remedy"),
    [
        (272, errno.EPERM, "--cap-add SYS_ADMIN"),  # unshare
        (165, errno.EACCES, "apparmor=unconfined"),  # mount
        (272, errno.ENOSYS, "CONFIG_USER_NS"),
    ],
)
def test_a_container_forbids_it(run: Runner, call: int, error: int, remedy: str) -> None:
    run.wrapper = [sys.executable, "-c", DENY, str(call), str(error)]
    assert remedy in one_sentence(run("--", "true"))


def test_fuse_is_missing(run: Runner) -> None:
    if os.geteuid():
        pytest.skip("only root can hide it")
    run.wrapper = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev; exec "$@"', "sh"]
    assert "/dev/fuse is missing" in one_sentence(run("--", "true"))


def test_fuse_is_closed(run_as_nobody: Runner, tmp_path: Path) -> None:
    run = run_as_nobody
    os.mknod(tmp_path / "fuse", 0o20600, os.makedev(10, 229))
    script = f'mount --bind {tmp_path}/fuse /dev/fuse; exec "$@"'
    run.wrapper = ["unshare", "-m", "sh", "-c", script, "sh", *AS_NOBODY]
    assert "may not be opened by user 65534" in one_sentence(run("--", "true"))


# An ordinary user ------------------------------------------------------------------------------------------------


def test_an_ordinary_user(run_as_nobody: Runner) -> None:
    run = run_as_nobody
    state = "/sys/devices/system/memory/memory70/state"
    lines = run.shell(f"id -u; echo offline > {state}; cat {state}; cat /sys/bus/dax/devices/dax0.0/resource").split()
    assert lines == ["0", "offline", "0x200000000"]
    assert run("--", "sh", "-c", "exit 7").returncode == 7


def test_a_mount_outside_of_an_ordinary_user(run_as_nobody: Runner, public_path: Path) -> None:
    need("fusermount3")
    run = run_as_nobody
    point = public_path / "mnt"
    point.mkdir()
    os.chown(point, 65534, 65534)
    state = "sys/devices/system/memory/memory70/state"
    done = run("--mount", point, "--", "sh", "-c", f"echo offline > /{state}; cat {point}/{state}; exit 3")
    assert (done.returncode, done.stdout) == (3, "offline\n"), done.stderr
    with run.start("--mount", point, "--", "sh", "-c", "echo; sleep 1000", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (server,) = (pid for pid in run.alive() if serves(pid))
        os.kill(server, signal.SIGKILL)
        assert process.wait(PATIENCE_SECONDS) == 1
    assert not os.path.ismount(point)


def test_killed_parties_of_an_ordinary_user(run_as_nobody: Runner) -> None:
    for victim in ("command", "server", "init"):
        parties = Parties(run_as_nobody)
        os.kill(getattr(parties, victim), signal.SIGKILL)
        assert parties.end()[0] == (-9 if victim == "command" else 1)
    parties = Parties(run_as_nobody)
    parties.launcher.kill()
    assert parties.end() == (-9, "")


def test_an_ordinary_user_where_proc_is_covered(run_as_nobody: Runner) -> None:
    """As in a container: no /proc of one's own, hence no PID namespace."""
    run = run_as_nobody
    script = 'mount -t tmpfs none /proc/irq; exec "$@"'
    run.wrapper = ["unshare", "-m", "sh", "-c", script, "sh", *AS_NOBODY]
    done = run("--", "sh", "-c", "setsid sleep 1000 & cat /sys/devices/system/memory/block_size_bytes")
    assert done.stdout == "8000000\n"
    for victim in ("command", "server", "init"):
        parties = Parties(run)
        os.kill(getattr(parties, victim), signal.SIGKILL)
        parties.end()
        eventually(lambda: not run.alive())


# Many ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [10, pytest.param(50, marks=pytest.mark.ci)])
def test_many_at_once(run: Runner, number: int) -> None:
    with concurrent.futures.ThreadPoolExecutor(number) as pool:
        runs = [pool.submit(run, "--", "true") for _ in range(number)]
    assert [(done.result().returncode, done.result().stderr) for done in runs] == [(0, "")] * number
    assert threading.active_count() < number


# Limits, and where it cannot be ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "names"), [("--nproc=1", "RLIMIT_NPROC is 1"), ("--nproc=2", "RLIMIT_NPROC is 2"),
                         ("--nproc=3", "RLIMIT_NPROC is 3"), ("--nofile=8", "RLIMIT_NOFILE is 8"),
                         ("--nofile=10", "RLIMIT_NOFILE is 10")],
)  # fmt: skip
def test_limits_too_small_to_start(run_as_nobody: Runner, limit: str, names: str) -> None:
    run = run_as_nobody
    user = "--reuid=54321"  # of whom there are no other processes
    run.wrapper = ["prlimit", limit, *(user if word.startswith("--reuid") else word for word in run.wrapper)]
    done = run("--", "true")
    assert (done.returncode, done.stdout) == (1, "")
    assert names in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("who", ["server", "follower", "udevd"])
def test_a_stopped_process_of_ours_has_not_ended(run: Runner, tmp_path: Path, who: str) -> None:
    """It goes on after SIGCONT, and so does the command, which may have waited for it."""
    options = {"server": [], "follower": ["--mount", str(tmp_path)], "udevd": ["--udev"]}[who]
    if who == "udevd":
        need("/usr/lib/systemd/systemd-udevd")
    script = "echo $PPID; read line; cat /sys/devices/system/memory/block_size_bytes"
    process = run.start(*options, "--", "sh", "-c", script, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    command = next(pid for pid in run.alive() if comm(pid) == "sh")
    init = int(re.findall(r"PPid:\t(\d+)", Path(f"/proc/{command}/status").read_text())[0])
    others = [pid for pid in children(init) if pid != command]
    (pid,) = [other for other in others if who == "follower" or serves(other) == (who == "server")]
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: "(stopped)" in Path(f"/proc/{pid}/status").read_text())
    os.kill(command, signal.SIGSTOP)  # which the init reports, after it has seen the other
    assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
    os.kill(pid, signal.SIGCONT)
    process.send_signal(signal.SIGCONT)
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.read() == "8000000\n"
    assert process.wait(PATIENCE_SECONDS) == 0


def test_a_mount_of_another_user(run: Runner, run_as_nobody: Runner, public_path: Path) -> None:
    need("fusermount3")
    point = public_path / "mnt"
    point.mkdir()
    os.chown(point, 65534, 65534)
    with run_as_nobody.start("--mount", point, "--", "sh", "-c", "echo; read line", stdin=-1, stdout=-1) as process:
        assert process.stdout is not None
        process.stdout.readline()
        said = one_sentence(run("--at", point, "--", "true"))
        assert f"{point}: only the user who mounted it may enter it" in said
        process.communicate("\n", timeout=PATIENCE_SECONDS)


def test_a_mount_whose_server_has_ended(run: Runner, tmp_path: Path) -> None:
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0"
    linux.mount("fakesysfs", str(tmp_path), "fuse.fakesysfs", linux.MS_NOSUID | linux.MS_NODEV, options)
    os.close(device)
    try:
        said = one_sentence(run("--at", tmp_path, "--", "true"))
    finally:
        unmount(str(tmp_path))
    assert "does not answer (Transport endpoint is not connected)" in said
    assert f"`fakesysfs umount {tmp_path}`" in said


CHROOTS = {
    # The shell stays, as process 1 outside of the chroot.
    "a mount": 'mount --rbind / "$0"; chroot "$0" "$@"; exit $?',
    "a directory": """
        mount -t tmpfs tmpfs "$0"; mkdir "$0/root"
        for path in /*; do
            if test -L "$path"; then cp -P "$path" "$0/root"
            elif test -d "$path"; then mkdir "$0/root$path"; mount --rbind "$path" "$0/root$path"
            fi
        done
        exec chroot "$0/root" "$@"
    """,
    "without /proc": 'mount --bind / "$0"; mount --rbind /dev "$0/dev"; exec chroot "$0" "$@"',
}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can enter one")
@pytest.mark.parametrize("user", [(), AS_NOBODY])
@pytest.mark.parametrize("root", CHROOTS)
def test_in_a_chroot(run: Runner, tmp_path_factory: pytest.TempPathFactory, root: str, user: tuple[str, ...]) -> None:
    point = str(tmp_path_factory.mktemp("chroot"))
    run.wrapper = ["unshare", "-mpf", "--mount-proc", "sh", "-c", CHROOTS[root], point, "env", f"--chdir={ROOT}", *user]
    said = one_sentence(run("--", "true"))
    assert ("/proc is missing" if root == "without /proc" else "namespaces cannot be made in a chroot") in said
