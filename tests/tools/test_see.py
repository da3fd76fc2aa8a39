"""`fakesysfs map`, `watch`, `ps`, and runs that are joined: with real mounts, runs and terminals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakesysfs.fuse.mount import unmount
from fakesysfs.see import fakes
from fakesysfs.testing import MountedMachine
from tests.tools.conftest import PATIENCE_SECONDS, ROOT, Runner, eventually, need
from tests.tools.test_run import Terminal

HOTPLUG = "/sys/bus/dax/devices/dax0.0/hotplug"
STATE = "/sys/devices/system/memory/memory64/state"
MOVABLE = "64 MMMMMMMM MMMMMMMM MMMMMMMM MMMMMMMM"


def fakesysfs(*arguments: str | Path, wrapper: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, without a terminal."""
    line = [*wrapper, sys.executable, "-m", "fakesysfs", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)


def started(run: Runner, *options: str) -> subprocess.Popen[str]:
    """A run that is there until its standard input ends."""
    process = run.start(*options, "--", "sh", "-c", "echo there; cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    return process


# The map and the list ----------------------------------------------------------------------------------------------


def test_map_of_a_mount(tmp_path: Path) -> None:
    with MountedMachine(tmp_path) as machine:
        drawn = fakesysfs("map", machine.path).stdout
        assert f"{machine.path}, machine default, kernel hotplug-v3" in " ".join(drawn.split())
        assert drawn.count(MOVABLE) == 2
        assert "\x1b" not in drawn
        fakesysfs("map", machine.path, "--svg", tmp_path / "map.svg")
        assert (tmp_path / "map.svg").read_text().count("memory64: Movable") == 2
        machine.write(HOTPLUG, "unplug")
        assert "32 absent (kmem, node2)" in fakesysfs("map", machine.path).stdout


def test_map_in_a_run_is_the_runs(run: Runner) -> None:
    script = f"{sys.executable} -m fakesysfs map; {sys.executable} -m fakesysfs map /"
    drawn = run.shell(script, "--machine", "tiny").splitlines()
    assert drawn[0] == "machine tiny, kernel hotplug-v3: 2 blocks of 128 MiB: 256 MiB, all online"
    assert drawn[len(drawn) // 2 + 1 :] == drawn[1 : len(drawn) // 2]


def test_runs_and_mounts_are_listed(run: Runner, tmp_path: Path) -> None:
    with MountedMachine(tmp_path) as machine:
        process = started(run, "--machine", "tiny", "--kernel", "7.2")
        rows = [line.split(maxsplit=4) for line in fakesysfs("ps").stdout.splitlines()]
        assert rows[0] == ["PID", "WHAT", "MACHINE", "KERNEL", "WHERE"]
        server = machine.read("/control/pid").strip()
        assert [server, "mount", "default", "hotplug-v3", str(machine.path)] in rows
        command = "run --machine tiny --kernel 7.2 -- sh -c 'echo there; cat'"
        assert [str(process.pid), "run", "tiny", "7.2", command] in rows
        assert "2 blocks of 128 MiB" in " ".join(fakesysfs("map", str(process.pid)).stdout.split())
        assert str(machine.path) in fakesysfs("map", server).stdout
        process.communicate("")
    assert str(process.pid) not in fakesysfs("ps").stdout.split()


def test_a_run_with_a_mount_is_one_fake(run: Runner, tmp_path: Path) -> None:
    process = started(run, "--mount", str(tmp_path))
    mine = [one for one in fakes.describe(fakes.find()) if one.fake.path == str(tmp_path)]
    assert [one.kind for one in mine] in (["mount", "run"], ["run", "mount"])
    assert len({one.fake.device for one in mine}) == 1
    assert process.pid in {one.pid for one in mine}
    process.communicate("")


def test_runs_of_an_explorer_are_left_alone(explore: Runner, tmp_path: Path) -> None:
    """A call of ours would be held, and would be a step of somebody else."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    process = explore.start("--", f"cat {HOTPLUG}; echo there >{fifo}; cat {fifo}", stdout=subprocess.DEVNULL)
    assert fifo.read_text() == "there\n"
    inside = {pid for pid, _ in fakes._processes_inside()} & set(explore.alive())
    assert inside
    assert not inside & {fake.init for fake in fakes.find()}
    process.send_signal(signal.SIGINT)
    process.wait(PATIENCE_SECONDS)


def test_a_server_that_is_stopped_is_not_waited_for(tmp_path: Path) -> None:
    with MountedMachine(tmp_path) as machine:
        server = int(machine.read("/control/pid"))
        os.kill(server, signal.SIGSTOP)
        try:
            listed = fakesysfs("ps").stdout
        finally:
            os.kill(server, signal.SIGCONT)
        assert str(machine.path) not in listed
        assert str(machine.path) in fakesysfs("ps").stdout


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["map", "1"], "process 1 is no fake machine"),
        (["map", "/nonexistent"], "/nonexistent: no machine is here"),
        (["watch", "/"], "/: no fake machine is mounted here, and a real one has no control/"),
        (["run", "--at", "1"], "process 1 is no fake machine"),
    ],
)
def test_there_is_no_such_machine(arguments: list[str], why: str) -> None:
    done = fakesysfs(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"fakesysfs: {why}")
    assert done.stderr.count("\n") == 1


def described(*devices: str) -> list[fakes.Described]:
    found = [fakes.Fake(device, f"/{device}", 7, 0, "") for device in devices]
    return [fakes.Described(place, fake, "default", "7.2") for place, fake in enumerate(found)]


@pytest.mark.parametrize(
    ("devices", "why"),
    [([], "no fake machine runs: `fakesysfs mount MNT`"), (["0:1", "0:2"], r"lists them: 0 \(/0:1\), 1 \(/0:2\)")],
)
def test_which_one_if_none_is_named(devices: list[str], why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fakes, "describe", lambda _found: described(*devices))
    with pytest.raises(fakes.NotFoundError, match=why):
        fakes.only()


def test_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount and the run that uses it are one."""
    monkeypatch.setattr(fakes, "describe", lambda _found: described("0:1", "0:1"))
    assert fakes.only().fake.path == "/0:1"


# A second terminal -------------------------------------------------------------------------------------------------


def joined(run: Runner, *options: str) -> None:
    process = started(run, "--machine", "tiny", "--kernel", "7.2")
    at = ("--at", str(process.pid), *options)
    assert run.shell(
        "cat $FAKESYSFS_CONTROL/kernel; echo offline > /sys/devices/system/memory/memory32/state", *at
    ) == ("7.2\n")
    assert run.shell("cat /sys/devices/system/memory/memory32/state", *at) == "offline\n"
    assert run(*at, "--", "sh", "-c", "exit 3").returncode == 3
    assert run(*at, "--", "/nonexistent").returncode == 127
    assert "own" in run(*at, "--host-network", "--", "true").stderr
    second = run.start(*at, "--", "sh", "-c", "echo there; exec sleep 1000", stdout=subprocess.PIPE)
    assert second.stdout is not None
    assert second.stdout.readline() == "there\n"
    process.communicate("")
    assert second.wait(PATIENCE_SECONDS) == -signal.SIGKILL  # it ends with the run


def test_a_command_joins_a_run(run: Runner) -> None:
    joined(run)


def test_a_command_of_an_ordinary_user_joins_a_run(run_as_nobody: Runner) -> None:
    joined(run_as_nobody)


def test_a_joined_command_hears_uevents_and_is_signalled(run: Runner) -> None:
    need("udevadm")
    process = started(run)
    script = "udevadm monitor --kernel & while :; do sleep 0.05; done"
    second = run.start("--at", str(process.pid), "--", "sh", "-c", script, stdout=subprocess.PIPE)
    assert second.stdout is not None
    while not second.stdout.readline().startswith("KERNEL - "):
        pass
    run.shell(f"echo offline > {STATE}", "--at", str(process.pid))
    while "offline" not in (line := second.stdout.readline()):
        assert line
    second.send_signal(signal.SIGTERM)
    assert second.wait(PATIENCE_SECONDS) == -signal.SIGTERM
    process.communicate("")


def test_another_user_cannot_join(run: Runner, run_as_nobody: Runner) -> None:
    process = started(run)
    done = run_as_nobody("--at", str(process.pid), "--", "true")
    assert done.returncode == 2
    assert f"process {process.pid} is no fake machine" in done.stderr
    process.communicate("")


# Explain -----------------------------------------------------------------------------------------------------------

WRITE_TWICE = f"echo nonsense > {STATE}; echo online > {STATE}; exit 3"
NONSENSE = (
    f'write {STATE} "nonsense\\n": EINVAL (Invalid argument): '
    "'nonsense' is not one of offline, online, online_kernel, online_movable [state_store]"
)


def explained(run: Runner, *options: str) -> None:
    done = run(*options, "--explain", "--", "bash", "-c", WRITE_TWICE)
    assert done.returncode == 3
    *_, heading, first, second = done.stderr.splitlines()
    assert heading == "fakesysfs: 2 operations were refused:"
    pid, _, told = first.strip().partition(" ")
    assert pid.isdecimal()
    assert told == f"bash: {NONSENSE}"
    assert second.endswith(
        f'bash: write {STATE} "online\\n": EINVAL (Invalid argument): memory64 is already online [state_store]'
    )


def test_what_was_refused(run: Runner) -> None:
    explained(run)


def test_what_was_refused_on_a_mount(run: Runner, tmp_path: Path) -> None:
    """Not what was refused before."""
    with MountedMachine(tmp_path) as machine:
        with pytest.raises(OSError, match="Invalid argument"):
            machine.write(STATE, "before")
        explained(run, "--at", str(machine.path))


def test_what_was_refused_in_a_joined_run(run: Runner) -> None:
    process = started(run)
    explained(run, "--at", str(process.pid))
    process.communicate("")


def test_nothing_was_refused(run: Runner) -> None:
    assert run("--explain", "--", "true").stderr == "fakesysfs: no operation was refused\n"


def test_what_was_refused_after_a_reset(run: Runner) -> None:
    script = f"echo nonsense > {STATE}; echo 1 > $FAKESYSFS_CONTROL/reset; echo 'two\"' > {STATE}"
    told = run("--explain", "--", "bash", "-c", script).stderr.splitlines()
    assert told[-2] == "fakesysfs: 1 operation was refused:"
    assert f'write {STATE} "two\\"\\n": EINVAL' in told[-1]


# The shell ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for one in opened:
        one.process.kill()
        one.process.wait()
        os.close(one.master)


def test_the_shell_says_where_it_is(run: Runner, tmp_path: Path, terminals: list[Terminal]) -> None:
    need("bash")
    run.environment |= {"SHELL": "/bin/bash", "PS1": "$debian_chroot> ", "HOME": str(tmp_path)}
    terminals.append(shell := Terminal(run, *map(str, run.line("--machine", "tiny", "--kernel", "7.2"))))
    greeting = shell.expect("\n")
    where = "/sys, /dev and /proc are a fake machine's: machine tiny, kernel 7.2; `exit` leaves it"
    assert greeting == f"fakesysfs: {where}\r"
    shell.expect("fakesysfs")  # the prompt
    shell.type("exit 0\n")
    assert shell.process.wait(PATIENCE_SECONDS) == 0


def test_a_script_is_not_greeted(run: Runner) -> None:
    run.environment["SHELL"] = "/bin/sh"
    done = run(given="echo $debian_chroot\n")
    assert (done.stdout, done.stderr) == ("fakesysfs\n", "")
    assert run.shell("echo ${debian_chroot-unset}") == "unset\n"


# In tmux -----------------------------------------------------------------------------------------------------------


class Tmux:
    """A terminal of tmux with a shell in it."""

    def __init__(self, socket: Path, width: int, height: int) -> None:
        need("tmux")
        self._tmux = ["tmux", "-S", str(socket), "-f", "/dev/null"]
        environment = {"PATH": os.environ["PATH"], "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "PS1": "$ "}
        environment |= {name: os.environ[name] for name in ("TMPDIR",) if name in os.environ}
        shell = ["sh", "-i"]
        size = ["-x", str(width), "-y", str(height)]
        subprocess.run([*self._tmux, "new-session", "-d", *size, *shell], env=environment, cwd=ROOT, check=True)

    def __call__(self, *command: str) -> str:
        return subprocess.run([*self._tmux, *command], capture_output=True, text=True, check=True).stdout

    def type(self, text: str) -> None:
        self("send-keys", "-l", text)

    def lines(self) -> list[str]:
        """What is on the screen."""
        return self("capture-pane", "-p").splitlines()

    def shows(self, text: str) -> list[str]:
        """Wait until the text is on the screen."""
        try:
            eventually(lambda: any(text in line for line in self.lines()))
        except AssertionError:
            raise AssertionError(f"{text!r} never came: {self.lines()}") from None
        return self.lines()

    def end(self) -> None:
        self("kill-server")


@pytest.fixture
def tmux(tmp_path: Path) -> Iterator[Tmux]:
    made = Tmux(tmp_path / "tmux", 80, 24)
    yield made
    made.end()


def command(*arguments: object) -> str:
    return f"{sys.executable} -m fakesysfs {' '.join(map(str, arguments))}\n"


def test_map_in_a_terminal(tmux: Tmux, tmp_path: Path) -> None:
    with MountedMachine(tmp_path / "m") as machine:
        tmux.type(f"clear; {command('map', machine.path)}")
        shown = tmux.shows("■ several zones")
        assert all(len(line) <= 80 for line in shown)
        assert any(line.strip() == "64 " + " ".join(["■" * 8] * 4) for line in shown)
        assert "\x1b[32m■■■■■■■■" in tmux("capture-pane", "-p", "-e")
        tmux.type(f"clear; NO_COLOR=1 {command('map', machine.path)}")
        assert MOVABLE in " ".join(tmux.shows("D DMA32"))
        tmux("resize-window", "-x", "200", "-y", "60")
        tmux.type(f"clear; {command('map', machine.path)}")
        assert f"{machine.path}, machine default, kernel hotplug-v3: 80 blocks of 128 MiB" in "".join(
            tmux.shows("■ DMA32")
        )


def test_watch(tmux: Tmux, tmp_path: Path) -> None:
    with MountedMachine(tmp_path / "m") as machine:
        tmux.type(f"clear; {command('watch', machine.path)}")
        shown = tmux.shows("q: quit")
        assert len(shown) == 24
        tmux.shows("operations")
        machine.write(HOTPLUG, "unplug")
        shown = tmux.shows("□□□□□□□□ □□□□□□□□")
        assert any(line.endswith('write dax0.0/hotplug "unplug": 6 bytes') for line in tmux.shows('"unplug": 6'))
        assert any(line == "remove@/devices/system/node/node2" for line in shown)
        with pytest.raises(OSError, match="Invalid argument"):
            machine.write(HOTPLUG, "nonsense")
        tmux.shows("EINVAL ('nonsense'")
        tmux("resize-window", "-x", "200", "-y", "60")
        eventually(lambda: tmux.lines()[59:] == ["q: quit"], "the large screen")
        tmux("resize-window", "-x", "60", "-y", "20")
        eventually(lambda: tmux.lines()[19:] == ["q: quit"], "the small screen")
        tmux("resize-window", "-x", "80", "-y", "24")
        machine.reset()
        tmux.shows("booted again 1 time")
        tmux.shows("node2  32 blocks")
        machine.write("/control/dev_kmsg", "a message of a program")
        tmux.shows("a message of a program")
        tmux.type("q")
        eventually(lambda: not any("operations" in line for line in tmux.lines()), "the end")


def test_watch_survives_its_mount(tmux: Tmux, tmp_path: Path) -> None:
    point = tmp_path / "mnt"
    point.mkdir()
    assert fakesysfs("mount", point).returncode == 0
    tmux.type(f"clear; {command('watch', point)}")
    tmux.shows("node2  32 blocks")
    unmount(str(point))
    tmux.shows("unmounted; this goes on when a fake is mounted here again")
    assert fakesysfs("mount", "--machine", "tiny", point).returncode == 0
    tmux.shows("node1  1 block")
    unmount(str(point))
    tmux.type("q")


def test_a_mount_that_is_in_use_beside_a_watch_stays(tmux: Tmux, tmp_path: Path) -> None:
    with MountedMachine(tmp_path / "m") as machine, open(machine.path / "control/kernel"):
        tmux.type(f"clear; {command('watch', machine.path)}")
        tmux.shows("node2  32 blocks")
        done = fakesysfs("umount", machine.path)
        assert done.returncode
        assert "busy" in done.stderr
        tmux.type("q")


@pytest.mark.parametrize("user", ["run", "run_as_nobody"])
def test_watch_of_a_run(user: str, tmux: Tmux, request: pytest.FixtureRequest) -> None:
    run: Runner = request.getfixturevalue(user)
    process = started(run, "--machine", "tiny")
    tmux.type(f"clear; {' '.join(run.wrapper)} {command('watch', process.pid)}")
    tmux.shows(f"run {process.pid}, machine tiny")
    run.shell("echo offline > /sys/devices/system/memory/memory32/state", "--at", str(process.pid))
    tmux.shows("1 offline")
    process.communicate("")
    tmux.shows("the run has ended")
    tmux.type("q")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_terminal_after_a_signal(tmux: Tmux, tmp_path: Path, number: signal.Signals) -> None:
    """It is as it was: lines are edited and shown, what was on the screen is there again, with a cursor."""
    settings = "stty -a | md5sum; echo do''ne\n"
    with MountedMachine(tmp_path / "m") as machine:
        pid_file = tmp_path / "pid"
        tmux.type(f"clear; {settings}")
        tmux.shows("done")
        (before,) = (line for line in tmux.lines() if line.endswith("  -"))
        tmux.type(f"sh -c 'echo $$ >{pid_file}; exec {command('watch', machine.path).strip()}'\n")
        tmux.shows("operations")
        os.kill(int(pid_file.read_text()), number)
        tmux.shows("done")  # what was there before
        tmux.type(settings)
        eventually(lambda: tmux.lines().count("done") == 2, "the second time")
        assert sum(line.endswith(before) for line in tmux.lines()) == 2
        assert tmux("display-message", "-p", "#{cursor_flag} #{alternate_on}").split() == ["1", "0"]


def test_watch_is_stopped_and_goes_on(tmux: Tmux, tmp_path: Path) -> None:
    with MountedMachine(tmp_path / "m") as machine:
        tmux.type(f"clear; {command('watch', machine.path)}")
        tmux.shows("operations")
        tmux("send-keys", "C-z")
        tmux.shows("Stopped")
        machine.write(HOTPLUG, "unplug")
        tmux.type("fg\n")
        tmux.shows("□□□□□□□□")
        tmux.type("q")


def test_the_machine_of_64_tib(tmux: Tmux, tmp_path: Path) -> None:
    with MountedMachine(tmp_path / "m", machine="huge") as machine:
        tmux.type(f"clear; {command('watch', machine.path)}")
        shown = tmux.shows("one square: ")
        assert len(shown) == 24
        assert all(len(line) <= 80 for line in shown)
        machine.write(HOTPLUG, "unplug")
        tmux.shows("458,752 absent")
        tmux.shows("remove@/devices/system/node/node2")
        tmux("resize-window", "-x", "200", "-y", "60")
        eventually(lambda: tmux.lines()[59:] == ["q: quit"], "the large screen")
        tmux.type("q")
        tmux("resize-window", "-x", "80", "-y", "24")
        tmux.type(f"clear; {command('map', machine.path)}")
        shown = tmux.shows("one square: ")
        assert all(len(line) <= 80 for line in shown)


def test_watch_needs_a_terminal(tmp_path: Path) -> None:
    with MountedMachine(tmp_path) as machine:
        done = fakesysfs("watch", machine.path)
        assert (done.returncode, done.stderr) == (
            2,
            "fakesysfs: watch needs a terminal; `fakesysfs map` prints the map once\n",
        )
