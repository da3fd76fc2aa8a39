"""The public interface is what it was: a change of this file is a change for users."""

from __future__ import annotations

import dataclasses
import inspect

from fakesysfs import pytest_plugin, testing

PUBLIC = """
class AsyncRunningMachine
  exists(self, path: StrPath) -> bool
  log: list[LogMessage]
  ls(self, path: StrPath) -> list[str]
  pin(self, block: int) -> None
  async read(self, path: StrPath) -> str
  readlink(self, path: StrPath) -> str
  refused: list[Refusal]
  reset(self) -> None
  set_latency(self, *, online_block: float | None = None, offline_block: float | None = None) -> None
  set_unmovable(self, block: int, *, unmovable: bool = True) -> None
  stat(self, path: StrPath, *, follow_symlinks: bool = True) -> os.stat_result
  trace_writes(self, *, on: bool = True) -> None
  uevents: list[Uevent]
  unpin(self, block: int) -> None
  watch(self) -> AsyncWatch
  async write(self, path: StrPath, data: str | bytes) -> int
  writes: list[Write]
class AsyncWatch
  log: list[LogMessage]
  refused: list[Refusal]
  uevents: list[Uevent]
  async wait_for_log(self, pattern: str) -> LogMessage
  async wait_for_uevent(self, action: str | None = None, devpath: str = *) -> Uevent
  writes: list[Write]
class CannotMountError
class Exploration
  explored: int
  cut: int
  failed: int
  complete: bool
  conflicts: int
  conflicts_both_ways: int
  preemptions: int | None
  seconds: float
  failures: list[Failure]
  text: str
  assert_ok(self) -> None
class ExploreHandle
  async exists(self, path: StrPath) -> bool
  async ls(self, path: StrPath) -> list[str]
  async read(self, path: StrPath) -> str
  async stat(self, path: StrPath) -> os.stat_result
  async write(self, path: StrPath, data: str | bytes) -> int
class Failure
  schedule: str
  steps: tuple[Step, ...]
  why: str
class LogMessage
  level: int
  seconds: float
  text: str
class Machine
  (self, machine: StrPath = default, kernel: str = hotplug-v3, *, uid: int = 0, trace: StrPath | None = None) -> None
class MountedMachine
  (self, directory: StrPath, machine: StrPath = default, kernel: str = hotplug-v3, *, trace: StrPath | None = None) -> None
  exists(self, path: StrPath) -> bool
  log: list[LogMessage]
  ls(self, path: StrPath) -> list[str]
  pin(self, block: int) -> None
  read(self, path: StrPath) -> str
  readlink(self, path: StrPath) -> str
  refused: list[Refusal]
  reset(self) -> None
  run(self, command: str | Sequence[StrPath], *, input: str | None = None, cwd: StrPath | None = None, env: Mapping[str, str] | None = None, timeout: float | None = 60.0, check: bool = False, udev: bool = False, rules: Sequence[StrPath] = ()) -> subprocess.CompletedProcess[str]
  set_latency(self, *, online_block: float | None = None, offline_block: float | None = None) -> None
  set_unmovable(self, block: int, *, unmovable: bool = True) -> None
  start(self, command: str | Sequence[StrPath], *, stdin: int | IO[Any] | None = None, stdout: int | IO[Any] | None = None, stderr: int | IO[Any] | None = None, cwd: StrPath | None = None, env: Mapping[str, str] | None = None, udev: bool = False, rules: Sequence[StrPath] = ()) -> subprocess.Popen[str]
  stat(self, path: StrPath, *, follow_symlinks: bool = True) -> os.stat_result
  trace_writes(self, *, on: bool = True) -> None
  uevents: list[Uevent]
  unpin(self, block: int) -> None
  wait_until(self, condition: Callable[[], T], timeout: float = 60.0, what: str = ) -> T
  watch(self) -> Watch
  write(self, path: StrPath, data: str | bytes) -> int
  writes: list[Write]
class Refusal
  pid: int
  command: str
  path: str
  data: bytes
  errno: str
  why: str
  where: str
class RunningMachine
  advance(self, seconds: float) -> None
  exists(self, path: StrPath) -> bool
  log: list[LogMessage]
  ls(self, path: StrPath) -> list[str]
  now: float
  pin(self, block: int) -> None
  read(self, path: StrPath) -> str
  readlink(self, path: StrPath) -> str
  refused: list[Refusal]
  reset(self) -> None
  set_latency(self, *, online_block: float | None = None, offline_block: float | None = None) -> None
  set_unmovable(self, block: int, *, unmovable: bool = True) -> None
  start_write(self, path: StrPath, data: str | bytes) -> StartedWrite
  stat(self, path: StrPath, *, follow_symlinks: bool = True) -> os.stat_result
  trace_writes(self, *, on: bool = True) -> None
  uevents: list[Uevent]
  unpin(self, block: int) -> None
  wait_until(self, condition: Callable[[], T], timeout: float = 60.0, what: str = ) -> T
  watch(self) -> Watch
  write(self, path: StrPath, data: str | bytes) -> int
  writes: list[Write]
class StartedWrite
  finished: bool
  interrupt(self) -> None
  kill(self) -> None
  result(self) -> int
class Step
  process: str
  operation: str
  path: str
  data: str
  result: str
  why: str
  changed: tuple[str, ...]
  command: str
  is_same(self, other: Step) -> bool
  program: str
  what: str
class Uevent
  sequence: int
  action: str
  devpath: str
  subsystem: str
  environment: Mapping[str, str]
class WaitsForeverError
class Watch
  log: list[LogMessage]
  refused: list[Refusal]
  uevents: list[Uevent]
  wait_for_log(self, pattern: str, *, timeout: float = 60.0) -> LogMessage
  wait_for_uevent(self, action: str | None = None, devpath: str = *, *, timeout: float = 60.0) -> Uevent
  writes: list[Write]
class Write
  began: float
  seconds: float | None
  pid: int
  command: str
  path: str
  data: bytes
  result: str
explore(programs: Sequence[Program], *, machine: StrPath = default, kernel: str = hotplug-v3, setup: Callable[[RunningMachine], object] | None = None, check: Callable[[RunningMachine], object] | None = None, preemptions: int | None = None, limit: int | None = None, inside: bool = False, allow_wedged: bool = False, longest: int = 10000, schedule: str | None = None, reduction: bool = True, executor: Executor | None = None, trace: StrPath | None = None) -> Exploration
async explore_async(programs: Sequence[Program], *, machine: StrPath = default, kernel: str = hotplug-v3, setup: Callable[[RunningMachine], object] | None = None, check: Callable[[RunningMachine], object] | None = None, preemptions: int | None = None, limit: int | None = None, inside: bool = False, allow_wedged: bool = False, longest: int = 10000, schedule: str | None = None, reduction: bool = True, trace: StrPath | None = None) -> Exploration
"""  # noqa: E501  as they are


def public() -> str:
    """Names, signatures and fields of all that `fakesysfs.testing` exports."""
    lines = []
    for name in sorted(testing.__all__):
        exported = getattr(testing, name)
        if inspect.isfunction(exported):
            lines.append(
                f"{'async ' if inspect.iscoroutinefunction(exported) else ''}{name}{inspect.signature(exported)}"
            )
            continue
        lines.append(f"class {name}")
        if dataclasses.is_dataclass(exported):
            lines += [f"  {field.name}: {field.type}" for field in dataclasses.fields(exported)]
        if issubclass(exported, tuple):
            lines += [f"  {field}: {kind.__forward_arg__}" for field, kind in exported.__annotations__.items()]
            continue
        if exported.__init__ is not object.__init__ and name in {"Machine", "MountedMachine"}:
            lines.append(f"  {inspect.signature(exported.__init__)}")
        for member in sorted(dir(exported)):
            found = inspect.getattr_static(exported, member)
            if member.startswith("_") or issubclass(exported, BaseException):
                continue
            if isinstance(found, property):
                assert found.fget is not None
                lines.append(f"  {member}: {found.fget.__annotations__['return']!r}")
            elif inspect.isfunction(found):
                lines.append(
                    f"  {'async ' if inspect.iscoroutinefunction(found) else ''}{member}{inspect.signature(found)}"
                )
    return "\n".join(lines).replace("'", "")


def test_exports() -> None:
    assert public().splitlines() == PUBLIC.strip().splitlines()


def test_fixtures() -> None:
    fixtures = [name for name in vars(pytest_plugin) if name.startswith("fakesysfs_")]
    assert sorted(fixtures) == ["fakesysfs_in_process", "fakesysfs_machine", "fakesysfs_shared_machine"]


def test_everything_public_is_documented() -> None:
    for name in testing.__all__:
        exported = getattr(testing, name)
        assert exported.__doc__, name
        for member, found in vars(exported).items():
            if not member.startswith("_") and (inspect.isfunction(found) or isinstance(found, property)):
                assert found.__doc__, f"{name}.{member}"
