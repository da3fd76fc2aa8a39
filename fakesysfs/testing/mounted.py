"""A machine behind a real mount, for tests of programs.

The server is a process of its own and ends with the process that started it. Each `run` is a
`fakesysfs run` around the same mount, so no process that a command starts outlives the command.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

from fakesysfs.fuse import mount, mount_table
from fakesysfs.testing import records
from fakesysfs.testing.controls import Controls, StrPath
from fakesysfs.testing.watch import PATIENCE_SECONDS, Watch

__tracebackhide__ = True  # pytest shows the user's line last; --full-trace shows ours too

T = TypeVar("T")

_LOOK_SECONDS = 0.005


class CannotMountError(Exception):
    """A mount, private namespaces or systemd-udevd are missing. The text says what to do."""


class MountedMachine(Controls):
    """A machine that is mounted below `directory` inside `with`.

    `machine` is a built-in machine or a TOML file, `kernel` one of the kernels (`fakesysfs list`
    names both). `trace` is a file that gets what happens (docs/trace.md): *.jsonl or *.pftrace.
    Entering raises CannotMountError where FUSE does not work, and ValueError for an unknown machine
    or kernel and for a trace that cannot be written. Leaving ends the started commands, and raises
    RuntimeError if the server logged a complaint.
    """

    def __init__(
        self,
        directory: StrPath,
        machine: StrPath = "default",
        kernel: str = "hotplug-v3",
        *,
        trace: StrPath | None = None,
    ) -> None:
        self._directory = Path(directory).resolve()
        self.machine = os.fspath(machine)
        """As it was given."""
        self.kernel = kernel
        """The name of the kernel."""
        self.path = self._directory / "mnt"
        """The mountpoint: a directory with sys, dev, proc and control."""
        self.sys = self.path / "sys"
        """/sys in `run`."""
        self.dev = self.path / "dev"
        """/dev in `run`."""
        self.proc = self.path / "proc"
        """The files that `run` shows in /proc."""
        self.control = self.path / "control"
        """Files that no real machine has."""
        self._trace = [] if trace is None else [Path(trace).resolve()]
        self._log = self._directory / "server.log"
        self._server: subprocess.Popen[str] | None = None
        self._started: list[subprocess.Popen[str]] = []
        self._read_of_log = 0

    # Its life ------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            mount.check_library()
            mount.check_device()
        except mount.MountError as error:
            raise CannotMountError(str(error)) from None
        self.path.mkdir(parents=True, exist_ok=True)
        with self._log.open("w") as log:
            self._server = subprocess.Popen(
                [*_python("fakesysfs.testing.serve"), self.path, self.machine, self.kernel, *self._trace],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # Ctrl-C is for the tests; they end the server when they are done.
                start_new_session=True,
            )
        status, why = self._answer(self._server)
        if status != "0":
            self._end_server()
            raise {"2": ValueError}.get(status, CannotMountError)(why)
        return self

    def _answer(self, server: subprocess.Popen[str]) -> tuple[str, str]:
        assert server.stdout is not None
        status = server.stdout.readline().strip()
        if status == "0":
            return "0", ""
        return status, server.stdout.read().strip() or f"the server ended at once: {self._log.read_text()}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end_commands()
        self._end_server()
        if error is None:
            self._raise_complaint()

    def _end_commands(self) -> None:
        for command in self._started:
            with command:
                if command.poll() is None:
                    command.kill()
        self._started.clear()

    def _raise_complaint(self) -> None:
        """Raise RuntimeError with what the server has logged since the last time."""
        with self._log.open() as log:
            log.seek(self._read_of_log)
            said = log.read()
            self._read_of_log = log.tell()
        if said:
            raise RuntimeError(f"the server of the fake complained:\n{said}")

    def _end_server(self) -> None:
        if self._server is None:
            return
        with self._server as server:
            assert server.stdin is not None
            server.stdin.close()
            try:
                server.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()
        self._server = None
        if mount_table.mounted_at(str(self.path)):
            with contextlib.suppress(mount.MountError):
                mount.detach(str(self.path))

    # Files ---------------------------------------------------------------------------------------------------------

    def _outside(self, path: StrPath) -> str:
        return f"{self.path}/{os.fspath(path).lstrip('/')}"

    def _show(self, path: str) -> str:
        return self.read(path)

    def _store(self, path: str, data: str) -> None:
        self.write(path, data)

    # Refusals are OSErrors with the path inside the fake. The kernel's reason is a note.

    def read(self, path: StrPath) -> str:
        """The whole text of a file. Raises OSError as open(2) and read(2) fail."""
        with _WithReason(self, path), open(self._outside(path), "rb") as file:  # noqa: PTH123  there may be thousands
            return file.read().decode("utf-8", "surrogateescape")

    def write(self, path: StrPath, data: str | bytes) -> int:
        """One write(2) of `data`, as it is; returns how many bytes were taken.

        Raises OSError as open(2) and write(2) fail.
        """
        with _WithReason(self, path):
            descriptor = os.open(self._outside(path), os.O_WRONLY)
            try:
                return os.write(descriptor, data.encode() if isinstance(data, str) else data)
            finally:
                os.close(descriptor)

    def ls(self, path: StrPath) -> list[str]:
        """The names in a directory, in the kernel's order. Raises OSError."""
        with _WithReason(self, path):
            return os.listdir(self._outside(path))  # noqa: PTH208  names are wanted

    def stat(self, path: StrPath, *, follow_symlinks: bool = True) -> os.stat_result:
        """As os.stat. Raises OSError."""
        with _WithReason(self, path):
            return os.stat(self._outside(path), follow_symlinks=follow_symlinks)  # noqa: PTH116  as in process

    def readlink(self, path: StrPath) -> str:
        """The target of a symbolic link. Raises OSError."""
        with _WithReason(self, path):
            return os.readlink(self._outside(path))  # noqa: PTH115  a string is wanted

    def _reason(self, path: str, error: OSError) -> str:
        """Why the model refused a call of this thread on `path` with this error; "" if the host did."""
        name = errno.errorcode.get(error.errno or 0)
        real = self._without_links(path)
        with contextlib.suppress(OSError):
            for fields in reversed(records.fields_of((self.control / "refused.jsonl").read_text("ascii"))):
                if fields["pid"] == threading.get_native_id() and (fields["path"], fields["errno"]) == (real, name):
                    return f"{fields['reason']} [{fields['func']}]"
        return ""

    def _without_links(self, path: str) -> str:
        return os.path.realpath(self._outside(path)).removeprefix(str(self.path))

    # Waiting -------------------------------------------------------------------------------------------------------

    def watch(self) -> Watch:
        """A watch for what happens from now on."""
        return Watch(self)

    def wait_until(self, condition: Callable[[], T], timeout: float = PATIENCE_SECONDS, what: str = "") -> T:
        """Wait until `condition` returns something true, and return that.

        It is called every few milliseconds. `what` names the condition in the error. Raises
        TimeoutError after `timeout` seconds.
        """
        end = time.monotonic() + timeout
        while True:
            before = time.monotonic()
            if found := condition():
                return found
            now = time.monotonic()
            if now >= end:
                raise TimeoutError(f"{what or 'it'} did not come true in {timeout:g} seconds")
            # A slow condition must not keep a processor busy.
            time.sleep(min(max(_LOOK_SECONDS, now - before), end - now))

    # Commands ------------------------------------------------------------------------------------------------------

    def run(
        self,
        command: str | Sequence[StrPath],
        *,
        input: str | None = None,  # noqa: A002  subprocess.run's name
        cwd: StrPath | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = PATIENCE_SECONDS,
        check: bool = False,
        udev: bool = False,
        rules: Sequence[StrPath] = (),
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. It sees this machine at /sys, /dev and /proc.

        A string is a script for sh. `udev` runs a systemd-udevd beside it, with `rules`:
        directories, files, `none`, `distribution` (the default). The rest is as in subprocess.run;
        standard output and error are captured. Raises CannotMountError where private namespaces or
        systemd-udevd are missing, and what subprocess.run raises for `timeout` and `check`: with a
        note that has the ends of the output, which pytest shows.
        """
        process = self.start(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=cwd, env=env,
            udev=udev, rules=rules,
        )  # fmt: skip
        try:
            output, errors = process.communicate(input, timeout)
        except BaseException as error:
            process.kill()
            output, errors = process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                late = subprocess.TimeoutExpired(process.args, error.timeout, output, errors)
                _add_notes(late, output, errors)
                raise late from None
            raise
        finally:
            self._started.remove(process)
        if process.returncode == _WRONG_USE and any(why in errors for why in _IMPOSSIBLE):
            raise CannotMountError(errors.strip().removeprefix("fakesysfs: "))
        if check and process.returncode:
            failed = subprocess.CalledProcessError(process.returncode, process.args, output, errors)
            _add_notes(failed, output, errors)
            raise failed
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def start(
        self,
        command: str | Sequence[StrPath],
        *,
        stdin: int | IO[Any] | None = None,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        cwd: StrPath | None = None,
        env: Mapping[str, str] | None = None,
        udev: bool = False,
        rules: Sequence[StrPath] = (),
    ) -> subprocess.Popen[str]:
        """As `run`, but return at once. The command is killed when the machine ends."""
        arguments = ["sh", "-c", command] if isinstance(command, str) else [os.fspath(word) for word in command]
        options = ["--udev"] if udev else []
        for rule in rules:
            options += ["--rules", os.fspath(rule)]
        process = subprocess.Popen(
            [*_python("fakesysfs"), "run", "--at", os.fspath(self.path), *options, "--", *arguments],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            env=env,
            text=True,
        )
        # The user's command is in what subprocess raises and prints, not the one around it.
        process.args = command if isinstance(command, str) else arguments
        self._started.append(process)
        return process


_SHOWN_LINES = 30
"""So much of each stream is in the note; all of it is in the exception."""


def _add_notes(error: Exception, output: str, errors: str) -> None:
    for name, text in (("standard output", output), ("standard error", errors)):
        lines = text.splitlines()
        left_out = [f"... ({len(lines) - _SHOWN_LINES} lines before)"] if len(lines) > _SHOWN_LINES else []
        shown = [*left_out, *lines[-_SHOWN_LINES:]] or ["(empty)"]
        error.add_note("\n  ".join([f"{name}:", *shown]))


_WRONG_USE = 2
_IMPOSSIBLE = ("fakesysfs: private namespaces cannot be made here", "fakesysfs: systemd-udevd is not installed")


class _WithReason:
    """Turns an OSError of the host into the one that a machine in process raises: the fake's path, a note of why.

    Not `contextlib.contextmanager`: its frames would be in the tracebacks of users' tests.
    """

    def __init__(self, machine: MountedMachine, path: StrPath) -> None:
        self._machine = machine
        self._path = os.fspath(path)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, OSError) and error.errno is not None:
            seen = OSError(error.errno, os.strerror(error.errno), self._path)
            if reason := self._machine._reason(self._path, error):  # noqa: SLF001  ours
                seen.add_note(reason)
            raise seen from None


def _python(module: str) -> list[str]:
    """A module of ours as a command, independent of the working directory."""
    return [sys.executable, "-P", "-m", module]
