"""A search that is written down: `fakesysfs explore SCENARIO.toml`.

The keys are the options of the command. A relative path begins at the file's directory, and the commands run there.
`[kernels.NAME]` has what is different on one kernel; the table (`table.py`) has a column for each of them.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from fakesysfs.explore.messages import Task
from fakesysfs.fuse.mount import MountError
from fakesysfs.kernel.profile import UnknownKernelError, find_profile
from fakesysfs.machine import MachineError, load
from fakesysfs.machine.explain import explain
from fakesysfs.sandbox import udev as udevd
from fakesysfs.sandbox.server import Fake

Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Command = Annotated[str, msgspec.Meta(min_length=1)]


class ScenarioError(Exception):
    """A scenario that cannot be explored: the file, the key, the value and what is allowed."""


class OnKernel(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What is different on one kernel."""

    programs: Annotated[tuple[Command, ...], msgspec.Meta(min_length=1)] | None = None
    setup: str | None = None
    check: str | None = None
    always: str | None = None
    preemptions: Count | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The keys of a file."""

    title: str = ""
    """What is explored, in one line."""
    machine: str | None = None
    kernel: str | None = None
    programs: Annotated[tuple[Command, ...], msgspec.Meta(min_length=1)]
    udev: bool = False
    rules: tuple[str, ...] = ()
    setup: str = ""
    check: str = ""
    always: str = ""
    inside: bool = False
    allow_wedged: bool = False
    preemptions: Count | None = None
    limit: Count | None = None
    seconds: Seconds | None = None
    jobs: Positive = 1
    kernels: dict[str, dict[str, Any]] = {}


class Bounds(msgspec.Struct, frozen=True):
    """Where a search ends; None: nowhere."""

    preemptions: int | None = None
    limit: int | None = None
    seconds: float | None = None


class Scenario(msgspec.Struct, frozen=True):
    """All that a search depends on. `checked` says whether it can be run."""

    fake: Fake
    task: Task
    bounds: Bounds = Bounds()
    jobs: int = 1
    title: str = ""

    def checked(self, source: str = "") -> Scenario:
        """This scenario. Raises ScenarioError for an unknown machine or kernel, and for rules that cannot be had."""
        where = f"{source}: " if source else ""
        task = self.task
        try:
            find_profile(self.fake.kernel)
            load(self.fake.machine, task.directory)
            if task.udev:
                words = (udevd.NONE, udevd.DISTRIBUTION)
                udevd.find([rule if rule in words else os.path.join(task.directory, rule) for rule in task.rules])  # noqa: PTH118  absolute ones stay as they are
        except UnknownKernelError as error:
            raise ScenarioError(f"{where}{'kernel: ' if where else ''}{error}") from None
        except MachineError as error:
            raise ScenarioError(f"{where}{'machine: ' if where else ''}{error}") from None
        except MountError as error:
            raise ScenarioError(f"{where}{'rules: ' if where else ''}{error}") from None
        if task.rules and not task.udev:
            raise ScenarioError(
                f"{where}rules = {list(task.rules)!r}: needs udev = true"
                if where
                else "--rules needs --udev: give both"
            )
        return self


class ScenarioFile:
    """A scenario file. Raises ScenarioError."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._directory = str(Path(path).absolute().parent)
        self._file = _read(path)
        self._on = {kernel: _on_kernel(path, kernel, table) for kernel, table in self._file.kernels.items()}

    @property
    def name(self) -> str:
        """The file's name, without .toml."""
        return Path(self.path).stem

    @property
    def title(self) -> str:
        """What is explored, in one line."""
        return self._file.title or self.name

    @property
    def kernels(self) -> list[str]:
        """The kernels on which to explore it."""
        return list(self._file.kernels) or [kernel for kernel in (self._file.kernel,) if kernel is not None]

    def scenario(self, *, machine: str, kernel: str, given: Mapping[str, Any]) -> Scenario:
        """The scenario. `given` are keys that replace those of the file; `machine` and `kernel` are the defaults.

        Raises ScenarioError.
        """
        file = self._file
        chosen: str = given.get("kernel") or file.kernel or next(iter(file.kernels), kernel)
        different = self._on.get(chosen, OnKernel())
        known = {key: getattr(file, key) for key in _File.__struct_fields__}
        known |= {key: value for key, value in msgspec.structs.asdict(different).items() if value is not None}
        known |= {"machine": file.machine or machine, **given, "kernel": chosen}
        return scenario_of(known, self._directory, self.title).checked(self.path)


def scenario_of(known: Mapping[str, Any], directory: str = "", title: str = "") -> Scenario:
    """The scenario with these keys, whose commands run in `directory`, or where the explorer runs."""
    keys = {key: known[key] for key in ("setup", "check", "always", "inside", "allow_wedged", "udev") if key in known}
    task = Task(tuple(known["programs"]), **keys, rules=tuple(known.get("rules", ())), directory=directory)
    bounds = Bounds(known.get("preemptions"), known.get("limit"), known.get("seconds"))
    return Scenario(Fake(known["machine"], known["kernel"]), task, bounds, known.get("jobs", 1), title)


def _read(path: str) -> _File:
    try:
        tables = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ScenarioError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ScenarioError(f"{path}: not TOML: not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{path}: not TOML: {error}") from None
    try:
        return msgspec.convert(tables, _File)
    except msgspec.ValidationError as error:
        raise ScenarioError(f"{path}: {explain(error, tables, _File)}") from None


def _on_kernel(path: str, kernel: str, table: dict[str, Any]) -> OnKernel:
    try:
        find_profile(kernel)
        return msgspec.convert(table, OnKernel)
    except UnknownKernelError as error:
        raise ScenarioError(f"{path}: kernels.{kernel}: {error}") from None
    except msgspec.ValidationError as error:
        raise ScenarioError(f"{path}: kernels.{kernel}.{explain(error, table, OnKernel)}") from None
