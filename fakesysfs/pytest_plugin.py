"""Fixtures for pytest: machines to test programs on. `docs/testing.md` tells how to use them.

pytest loads this file in every project that is tested where fakesysfs is installed, so nothing is imported here that
pytest has not imported itself: what a fixture needs, it imports. That is also why this is not below
`fakesysfs.testing`, whose import brings the model along.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from fakesysfs.testing import MountedMachine, RunningMachine

__tracebackhide__ = True  # pytest shows the user's line last; --full-trace shows ours too

_KINDS = {"machine": "default", "kernel": "hotplug-v3"}
"""What a test may choose, and what it gets if nobody chooses."""

_NAME_LENGTH = 200
"""Of a trace's file, which bears the name of its test."""

_MARKER = "@pytest.mark.fakesysfs(machine=..., kernel=...)"


class _Wanted(NamedTuple):
    machine: str
    kernel: str


def pytest_addoption(parser: pytest.Parser) -> None:
    """The command line and the ini-file."""
    group = parser.getgroup("fakesysfs")
    group.addoption("--fakesysfs-machine", metavar="NAME|FILE", help="machine of tests that name none")
    group.addoption("--fakesysfs-kernel", metavar="PROFILE", help="kernel of tests that name none")
    group.addoption("--fakesysfs-require", action="store_true", help="fail, not skip, where FUSE cannot be used")
    group.addoption(
        "--fakesysfs-trace", metavar="DIR", help="write a trace and its timeline of each test's own machine there"
    )
    parser.addini("fakesysfs_machine", "machine of tests that name none; NAME.toml is beside the ini-file")
    parser.addini("fakesysfs_kernel", "kernel of tests that name none")
    parser.addini("fakesysfs_require", "fail, not skip, where FUSE cannot be used", type="bool")


def pytest_configure(config: pytest.Config) -> None:
    """The marker."""
    name = _MARKER.removeprefix("@pytest.mark.")
    config.addinivalue_line("markers", f"{name}: what the fakesysfs fixtures of this test run")


@pytest.fixture
def fakesysfs_machine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MountedMachine]:
    """A mounted machine of the test's own, as booted."""
    with _traced(request) as trace, contextlib.ExitStack() as stack:
        with _failing_without_traceback():
            machine = stack.enter_context(_mounted(_wanted(request), tmp_path_factory, trace))
        with _reported(request, machine):
            yield machine


@pytest.fixture
def fakesysfs_shared_machine(
    request: pytest.FixtureRequest, _fakesysfs_mounts: Callable[[_Wanted], MountedMachine]
) -> Iterator[MountedMachine]:
    """A mounted machine that the session's tests share, booted again for each of them.

    What a test has started ends with it, and a bug of the fake is an error of the test that met it.
    """
    with _failing_without_traceback():
        machine = _fakesysfs_mounts(_wanted(request))
    machine.trace_writes(on=False)
    machine.reset()
    with _reported(request, machine):
        yield machine
    machine._end_commands()  # noqa: SLF001  ours
    machine._raise_complaint()  # noqa: SLF001  the same


@pytest.fixture
def fakesysfs_in_process(request: pytest.FixtureRequest) -> Iterator[RunningMachine]:
    """A machine in this process, without a mount, as booted."""
    from fakesysfs.testing import Machine  # noqa: PLC0415  see above

    with _traced(request) as trace:
        with _failing_without_traceback():
            described = Machine(*_wanted(request), trace=trace)
        with described as machine, _reported(request, machine):
            yield machine


@pytest.fixture(scope="session")
def _fakesysfs_mounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[_Wanted], MountedMachine]]:
    """One for each machine and kernel that tests share."""
    with contextlib.ExitStack() as stack:
        mounts: dict[_Wanted, MountedMachine] = {}

        def mount(wanted: _Wanted) -> MountedMachine:
            if wanted not in mounts:
                mounts[wanted] = stack.enter_context(_mounted(wanted, tmp_path_factory))
            return mounts[wanted]

        yield mount


def _mounted(wanted: _Wanted, tmp_path_factory: pytest.TempPathFactory, trace: Path | None = None) -> MountedMachine:
    """Not yet entered. Each worker of pytest-xdist has a base directory, and so mounts, of its own."""
    from fakesysfs.testing import MountedMachine  # noqa: PLC0415  see above

    return MountedMachine(tmp_path_factory.mktemp("fakesysfs"), *wanted, trace=trace)


@contextlib.contextmanager
def _traced(request: pytest.FixtureRequest) -> Iterator[Path | None]:
    """The file for the trace of a test's own machine, None without --fakesysfs-trace. Its page is made at the end."""
    directory = request.config.getoption("fakesysfs_trace")
    if directory is None:
        yield None
        return
    from fakesysfs.trace.events import from_lines  # noqa: PLC0415  see above
    from fakesysfs.trace.timeline import page  # noqa: PLC0415  the same

    folder = request.config.invocation_params.dir / directory
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w.]+", "-", f"{request.node.nodeid}-{request.fixturename}").strip("-")[-_NAME_LENGTH:]
    trace = folder / f"{name}.jsonl"
    yield trace
    if trace.exists() and trace.stat().st_size:
        with trace.open("rb") as lines:
            (folder / f"{name}.html").write_text(page(from_lines(lines), request.node.nodeid), "utf-8")


# What a test wants -----------------------------------------------------------------------------------------------


def _wanted(request: pytest.FixtureRequest) -> _Wanted:
    """By the first that says so: parameter of the fixture, marker, command line, ini-file, environment."""
    config = request.config
    given = [_parameter(request), *(marker.kwargs for marker in request.node.iter_markers("fakesysfs"))]
    beside_test, beside_ini = request.path.parent, config.inipath.parent if config.inipath else config.rootpath
    chosen = {}
    for kind, default in _KINDS.items():
        places = [(kinds.get(kind), beside_test) for kinds in given]
        places.append((config.getoption(f"fakesysfs_{kind}"), config.invocation_params.dir))
        places.append((config.getini(f"fakesysfs_{kind}"), beside_ini))
        places.append((os.environ.get(f"FAKESYSFS_{kind.upper()}"), config.invocation_params.dir))
        value, directory = next(((value, place) for value, place in places if value), (default, Path()))
        chosen[kind] = str(directory / value) if str(value).endswith(".toml") else str(value)
    return _Wanted(**chosen)


def _parameter(request: pytest.FixtureRequest) -> Mapping[str, object]:
    parameter = getattr(request, "param", None) or {}
    if not isinstance(parameter, Mapping) or set(parameter) - set(_KINDS):
        raise ValueError(
            f"parameter {parameter!r} of {request.fixturename}: "
            'expected a dictionary such as {"machine": "default", "kernel": "7.2"}'
        )
    return parameter


def _check_markers(item: pytest.Item) -> None:
    """Fail where a marker would be ignored, also if the test uses no fixture of ours."""
    for marker in item.iter_markers("fakesysfs"):
        if marker.args or set(marker.kwargs) - set(_KINDS):
            words = [repr(value) for value in marker.args]
            words += [f"{name}={value!r}" for name, value in marker.kwargs.items()]
            written = f"@pytest.mark.fakesysfs({', '.join(words)})"
            raise pytest.fail.Exception(f"{written}: expected {_MARKER}, one of them or both", pytrace=False)


@contextlib.contextmanager
def _failing_without_traceback() -> Iterator[None]:
    """What a test wants does not exist: the sentence is enough."""
    try:
        yield
    except ValueError as error:
        raise pytest.fail.Exception(f"fakesysfs: {error}", pytrace=False) from None


# What a report of a failed test says ------------------------------------------------------------------------------

_SHOWN_LINES = 20
_MACHINES = pytest.StashKey[list["MountedMachine | RunningMachine"]]()
"""The machines of a test that runs."""


@contextlib.contextmanager
def _reported(request: pytest.FixtureRequest, machine: MountedMachine | RunningMachine) -> Iterator[None]:
    """If the test fails meanwhile, its report has the machine's refusals and log."""
    machines = request.node.stash.setdefault(_MACHINES, [])
    machines.append(machine)
    yield
    machines.remove(machine)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Sections with what was refused and with the end of the kernel log."""
    report = yield
    if report.failed and report.when == "call":
        for machine in item.stash.get(_MACHINES, []):
            report.sections += _sections(machine)
    return report


def _sections(machine: MountedMachine | RunningMachine) -> Iterator[tuple[str, str]]:
    with contextlib.suppress(OSError):  # its server has ended
        refused = [
            f"{refusal.pid} {refusal.command}: {refusal.path}"
            + (f" {refusal.data.decode(errors='backslashreplace')!r}" if refusal.data else "")
            + f": {refusal.errno}: {refusal.why} [{refusal.where}]"
            for refusal in machine.refused
        ]
        if refused:
            yield "fakesysfs: refused", _last(refused)
        log = [f"[{message.seconds:12.6f}] {message.text}" for message in machine.log]
        if log:
            yield "fakesysfs: kernel log", _last(log)


def _last(lines: Sequence[str]) -> str:
    """The last lines, and how many are left out."""
    left_out = [f"... ({len(lines) - _SHOWN_LINES} lines before)"] if len(lines) > _SHOWN_LINES else []
    return "".join(f"{line}\n" for line in [*left_out, *lines[-_SHOWN_LINES:]])


# Where it cannot be ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _skipping(config: pytest.Config) -> Iterator[None]:
    """Skip, or fail, with the reason why there can be no mount or no private namespaces."""
    try:
        yield
    except Exception as error:
        testing = sys.modules.get("fakesysfs.testing")
        if testing is None or not isinstance(error, testing.CannotMountError):
            raise
        if config.getoption("fakesysfs_require") or config.getini("fakesysfs_require"):
            raise pytest.fail.Exception(f"{error}", pytrace=False) from None
        raise pytest.skip.Exception(f"{error}") from None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """For the mount of a fixture."""
    _check_markers(item)
    with _skipping(item.config):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """For the first command that a test runs."""
    with _skipping(item.config):
        return (yield)
