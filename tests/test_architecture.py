"""Imports go one way, without circles, and no module is too long to read in one sitting."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "fakesysfs"
MAX_LINES = 700

FACES = ("sysfs", "procfs", "control")

ALLOWED: dict[str, tuple[str, ...]] = {
    "ops": (),
    "kernel": ("ops",),
    "kernfs": ("ops",),
    "sysfs": ("kernel", "kernfs", "ops"),
    "procfs": ("kernel", "kernfs", "ops"),
    "control": ("kernel", "kernfs", "ops"),
    "sysroot": (*FACES, "kernel", "kernfs", "ops"),
    "trace": ("kernel", "ops", "sysroot", "__init__"),
    "machine": ("kernel", "ops"),
    "fuse": ("kernfs", "ops"),
    "sandbox": ("fuse", "kernel", "machine", "sysfs", "sysroot", "trace"),
    "explore": ("fuse", "kernel", "machine", "ops", "sandbox", "trace"),
    "testing": ("explore", "fuse", "kernel", "kernfs", "machine", "ops", "sysfs", "sysroot", "trace"),
    "lab": (),
    "replay": ("fuse", "kernel", "kernfs", "lab", "machine", "ops", "sandbox", "sysroot", "testing"),
    "see": ("fuse", "sandbox"),
    "pytest_plugin": ("testing", "trace"),
    "cli": (
        *("explore", "fuse", "kernel", "kernfs", "machine", "replay", "sandbox", "see", "sysroot", "trace"),
        "__init__",
    ),
    "__main__": ("cli",),
    "__init__": (),
}
"""The rooms, and the other rooms that the modules of each may import. Each module is in one room."""

EXCEPTIONS: dict[str, tuple[str, ...]] = {
    "procfs.root": ("sysfs.node",),  # meminfo_line, the form that node*/meminfo shares
}
"""Modules with further imports, each with its reason."""


@cache
def modules() -> tuple[str, ...]:
    return tuple(
        sorted(
            ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
            for path in PACKAGE.rglob("*.py")
        )
    )


def file_of(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split(".")) if module != "__init__" else PACKAGE
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def parsed(module: str) -> ast.Module:
    return ast.parse(file_of(module).read_text(encoding="utf-8"))


def libraries(module: str) -> Iterator[str]:
    """The dotted names that a module imports: at its top, in functions and for type checkers."""
    for node in ast.walk(parsed(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported(module: str) -> Iterator[str]:
    """The modules of the package among them, without the package's name."""
    for name in libraries(module):
        inner = name.removeprefix("fakesysfs.")
        if inner != name:
            while inner not in modules() and "." in inner:
                inner = inner.rpartition(".")[0]
            yield inner if inner in modules() else "__init__"


def is_within(name: str, places: tuple[str, ...]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


# Rooms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_go_one_way(room: str) -> None:
    own = [module for module in modules() if is_within(module, (room,))]
    assert own
    for module in own:
        allowed = (room, *ALLOWED[room], *EXCEPTIONS.get(module, ()))
        wrong = [name for name in imported(module) if not is_within(name, allowed)]
        assert wrong == [], f"{module} may import of the package only {', '.join(allowed)}"


def test_every_module_is_in_a_room() -> None:
    assert [module for module in modules() if not is_within(module, tuple(ALLOWED))] == []


def test_every_permission_is_used() -> None:
    for room, others in ALLOWED.items():
        names = {name for module in modules() if is_within(module, (room,)) for name in imported(module)}
        assert [other for other in others if not any(is_within(name, (other,)) for name in names)] == [], room
    for module, places in EXCEPTIONS.items():
        for place in places:
            assert any(is_within(name, (place,)) for name in imported(module)), f"{module} no longer imports {place}"


def test_no_circle_of_imports() -> None:
    """Neither at run time nor for type checkers: `imported` has both kinds."""
    graph = {module: {name for name in imported(module) if name != module} for module in modules()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_the_core_of_the_kernel_knows_no_part_of_the_model() -> None:
    """kernel/core.py, with all that it imports: the log, uevents, settings of power/, profiles and configuration."""
    seen: set[str] = set()
    found = ["kernel.core"]
    while found:
        module = found.pop()
        if module not in seen:
            seen.add(module)
            found += imported(module)
    assert {module for module in seen if is_within(module, ("kernel",))} == {
        "kernel.core",
        "kernel.config",
        "kernel.pm",
        "kernel.printk",
        "kernel.profile",
        "kernel.uevent",
    }


def test_the_kernel_is_composed_in_one_place() -> None:
    """Only the faces reach the whole kernel of an object; its parts get the parts that they use."""
    assert [
        module for module in modules() if is_within(module, ("kernel",)) and "kernel.kernel" in imported(module)
    ] == []


MOUNT = """
import sys
from fakesysfs import cli
from fakesysfs.fuse import mount, session

def serve(*_arguments, ready, **_options):
    ready()
    print(*sorted(name for name in sys.modules if name.startswith("fakesysfs.")))

for check in ("check", "check_limits", "check_threads"):
    setattr(mount, check, lambda *_: None)
session.serve = serve
sys.exit(cli.main(["mount", "--foreground", sys.argv[1]]))
"""
"""`fakesysfs mount` up to the call that serves the mount."""


def test_a_mount_imports_no_sandbox(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", MOUNT, tmp_path], capture_output=True, text=True, check=True)
    names = [name.removeprefix("fakesysfs.") for name in done.stdout.splitlines()[-1].split()]
    assert {"sysroot", "fuse.uevent_barrier", "machine.describe"} <= set(names), done.stdout
    assert [name for name in names if is_within(name, ("sandbox", "replay", "testing", "pytest_plugin"))] == []


# Libraries --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        ("pyfuse3", ("fuse",)),
        ("trio", ("fuse", "sandbox", "testing")),
        ("msgspec", ("explore.scenario", "machine", "trace")),
        ("rich", ("see",)),
        ("pytest", ("pytest_plugin", "testing")),
        ("ctypes", ("fuse", "replay", "sandbox")),
    ],
)
def test_a_library_is_used_in_its_rooms_only(library: str, rooms: tuple[str, ...]) -> None:
    users = {module for module in modules() if any(is_within(name, (library,)) for name in libraries(module))}
    assert users
    assert [module for module in users if not is_within(module, rooms)] == []


@pytest.mark.parametrize("library", ["trio", "pyfuse3", "msgspec", "threading", "asyncio"])
def test_the_model_knows_no_event_loop_and_no_thread(library: str) -> None:
    """The kernel has no FUSE and no clock of its own."""
    for module in modules():
        if is_within(module, ("ops", "kernel", "kernfs", *FACES)):
            assert not any(is_within(name, (library,)) for name in libraries(module)), f"{module} imports {library}"


HOSTS = ("pyfuse3", "trio")
_LAYOUT = frozenset(
    {"Structure", "Union", "POINTER", "cast", "memmove", "memset", "string_at", "addressof", "pythonapi"}
)


def root_of(node: ast.expr) -> str | None:
    """The name at the start of `name.attribute.attribute`."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def hosts_in(tree: ast.Module) -> set[str]:
    """The names under which a module knows pyfuse3 and trio, and what it imports from them."""
    found = set(HOSTS)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and is_within(node.module or "", HOSTS):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.asname for alias in node.names if alias.asname and is_within(alias.name, HOSTS)}
    return found


def inside(node: ast.AST, hosts: set[str]) -> str | None:
    """The inside that a node of a syntax tree uses."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [f"{getattr(node, 'module', '')}.{alias.name}" for alias in node.names]
        return next((name for name in names if is_within(name.lstrip("."), HOSTS) and "._" in name), None)
    if isinstance(node, ast.Call) and node.args and isinstance(node.func, ast.Name):
        reflection = node.func.id in {"getattr", "setattr", "hasattr", "vars"}
        return node.func.id if reflection and root_of(node.args[0]) in hosts else None
    if not isinstance(node, ast.Attribute):
        return None
    if root_of(node) in hosts:
        private = node.attr.startswith("_") and not node.attr.startswith("__")
        return node.attr if private or not isinstance(node.ctx, ast.Load) else None
    layout = root_of(node) == "ctypes" and node.attr in _LAYOUT
    return node.attr if layout or node.attr in {"from_address", "from_buffer"} else None


def insides(tree: ast.Module) -> list[str]:
    """Where code depends on what pyfuse3 and trio do not document.

    Underscored names, attributes that are looked up by a string or replaced, and the layout of objects in memory.
    """
    hosts = hosts_in(tree)
    return [what for node in ast.walk(tree) if (what := inside(node, hosts)) is not None]


@pytest.mark.parametrize(
    "code",
    [
        "import pyfuse3\npyfuse3._wait_fuse_readable()",
        "from pyfuse3 import _pyfuse3",
        "import pyfuse3._pyfuse3",
        "import trio as t\nt._core.run()",
        "import pyfuse3\ngetattr(pyfuse3, name)",
        "import pyfuse3\npyfuse3.trio = other",
        "from trio import lowlevel\nlowlevel.Task._counter",
        "import ctypes\nclass Token(ctypes.Structure): pass",
        "token = Token.from_address(id(token))",
    ],
)
def test_use_of_insides_is_found(code: str) -> None:
    assert insides(ast.parse(code))


def test_only_fuse_fast_knows_the_insides_of_pyfuse3() -> None:
    found = {module: insides(parsed(module)) for module in modules()}
    users = {module for module, places in found.items() if places}
    assert "fuse.fast.loop" in users
    assert {module: found[module] for module in users if not is_within(module, ("fuse.fast",))} == {}


# Modules ----------------------------------------------------------------------------------------------------------


def test_no_module_of_the_kernel_compares_profiles_by_name() -> None:
    """A profile's fields name behaviours; no code compares versions."""
    for module in modules():
        if is_within(module, ("kernel",)) and module != "kernel.profile":
            text = file_of(module).read_text(encoding="utf-8")
            assert "profile.name" not in text, module


@pytest.mark.parametrize("module", modules())
def test_a_module_can_be_read_in_one_sitting(module: str) -> None:
    lines = len(file_of(module).read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES
    assert ast.get_docstring(parsed(module)), "a module opens with what it is"
