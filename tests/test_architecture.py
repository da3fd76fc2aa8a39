"""Imports go one way, as docs/architecture.md draws it, and no module is too long to read in one sitting."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "fakesysfs"
MAX_LINES = 700

ALLOWED: dict[str, tuple[str, ...]] = {
    "ops": (),
    "kernel": ("ops",),
    "kernfs": ("ops",),
    "sysfs": ("kernel", "kernfs", "ops"),
    "procfs": ("kernel", "kernfs", "ops"),
    "control": ("kernel", "kernfs", "ops"),
    "fuse": ("kernfs", "ops"),
    "machine": ("kernel", "ops"),
}
"""What the modules of each part may import of the other parts; of its own part anything."""

EXCEPTIONS: dict[str, tuple[str, ...]] = {
    "procfs.root": ("sysfs.node",),  # meminfo_line, the form that node*/meminfo shares
}
"""Known ones, each with its reason."""


def modules() -> list[str]:
    return sorted(
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        for path in PACKAGE.rglob("*.py")
    )


def file_of(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split(".")) if module != "__init__" else PACKAGE
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imported(module: str) -> Iterator[str]:
    """The modules of the package that one imports, without the package's name; those for type checkers too."""
    for node in ast.walk(ast.parse(file_of(module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("fakesysfs."):
                yield name.removeprefix("fakesysfs.")


def is_within(name: str, places: tuple[str, ...]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_go_one_way(part: str) -> None:
    own = [module for module in modules() if is_within(module, (part,))]
    assert own
    for module in own:
        allowed = (part, *ALLOWED[part], *EXCEPTIONS.get(module, ()))
        wrong = [name for name in imported(module) if not is_within(name, allowed)]
        assert wrong == [], f"{module} may import of the package only {', '.join(allowed)}"


def test_every_exception_is_still_needed() -> None:
    for module, places in EXCEPTIONS.items():
        names = list(imported(module))
        for place in places:
            assert any(is_within(name, (place,)) for name in names), f"{module} no longer imports {place}"


@pytest.mark.parametrize("library", ["trio", "pyfuse3", "msgspec", "threading", "asyncio"])
def test_the_model_knows_no_event_loop_and_no_thread(library: str) -> None:
    """The kernel has no FUSE and no clock of its own."""
    for module in modules():
        if not is_within(module, ("kernel", "kernfs", "sysfs", "procfs", "control")):
            continue
        for node in ast.walk(ast.parse(file_of(module).read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(is_within(name, (library,)) for name in names), f"{module} imports {library}"


def test_no_module_of_the_kernel_compares_profiles_by_name() -> None:
    """A profile's fields name behaviours; no code compares versions (docs/architecture.md, Rules of the model)."""
    for module in modules():
        if is_within(module, ("kernel",)) and module != "kernel.profile":
            text = file_of(module).read_text(encoding="utf-8")
            assert "profile.name" not in text, module


@pytest.mark.parametrize("module", modules())
def test_a_module_can_be_read_in_one_sitting(module: str) -> None:
    path = file_of(module)
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), "a module opens with what it is"
