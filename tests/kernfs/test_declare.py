"""The lines of a table: what RO, RW and WO make of a `show` and a `store`, and what type checkers see of them."""

# pyright: reportUnknownMemberType=false, reportUnknownLambdaType=false

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field

import pytest

from fakesysfs.kernfs import Caller, KernelError, OpenFile, Tree, names_in, open_file
from fakesysfs.kernfs.declare import RO, RW, WO, Attribute, Directory, DirectoryKind, Entry, Shown
from tests.model import drive

CALLER = Caller(1, "pytest")


@dataclass
class Lamp:
    """What the files of these tests show; also the registry of its tree."""

    watts: int = 60
    stored: list[bytes] = field(default_factory=list[bytes])
    generation: int = 0
    objects: dict[int, Directory] = field(default_factory=dict[int, Directory])

    def show(self) -> int:
        return self.watts

    def store(self, buffer: bytes) -> None:
        self.stored.append(buffer)


def opened(lamp: Lamp, entry: Entry[Lamp], flags: int = os.O_RDONLY, *, file_size: int = 4096) -> OpenFile:
    """The one file of a directory, open."""
    top = Directory(1, DirectoryKind[Lamp]("lamp", lambda _: "/", (entry,), file_size=file_size), lamp)
    lamp.objects[top.serial] = top

    def kind_of(directory: Directory) -> DirectoryKind[Lamp]:
        return directory.kind

    tree = Tree(top, lamp, kind_of, lambda: (), lambda: 0)
    (name,) = names_in(tree, "/")
    return open_file(tree, tree.resolve(f"/{name}"), flags, CALLER)


def read(entry: Entry[Lamp]) -> bytes:
    return drive(opened(Lamp(), entry).read_sleeping(0, 4096))


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        ("on", b"on\n"),
        ("", b"\n"),
        (12, b"12\n"),
        (True, b"1\n"),
        (False, b"0\n"),
        (["one", "two"], b"one\ntwo\n"),
        (("one",), b"one\n"),
        ([], b""),
        (b"as it is", b"as it is"),
        ("\udcff", b"\xff\n"),
    ],
)
def test_the_result_of_show_says_what_kind_of_file_it_is(shown: Shown, text: bytes) -> None:
    async def sleeping_show(_: Lamp) -> Shown:
        return shown

    assert read(RO("file", lambda _: shown)) == text
    assert read(RO("file", sleeping_show)) == text
    assert read(RW("file", sleeping_show, Lamp.store)) == text


@pytest.mark.parametrize(
    ("attribute", "mode"),
    [
        (RO("file", Lamp.show), 0o444),
        (RO("file", Lamp.show, mode=0o400), 0o400),
        (RW("file", Lamp.show, Lamp.store), 0o644),
        (RW("file", Lamp.show, Lamp.store, narrow=lambda _: 0o444), 0o444),
        (WO("file", Lamp.store), 0o200),
    ],
)
def test_the_constructors_name_gives_the_mode(attribute: Attribute[Lamp], mode: int) -> None:
    flags = os.O_RDONLY if mode & 0o400 else os.O_WRONLY
    assert stat.S_IMODE(opened(Lamp(), attribute, flags).getattr().mode) == mode


def test_a_store_gets_the_bytes_as_they_were_written() -> None:
    lamp = Lamp()
    file = opened(lamp, WO("file", Lamp.store), os.O_WRONLY)
    assert drive(file.write(b"on\n", CALLER)) == 3
    assert drive(file.write(b"x" * 5000, CALLER)) == 4096
    assert lamp.stored == [b"on\n", b"x" * 4096]


def test_a_read_only_attribute_cannot_be_opened_for_writing() -> None:
    with pytest.raises(KernelError, match="EACCES"):
        opened(Lamp(), RO("file", lambda _: 1), os.O_WRONLY)


def test_a_file_has_the_size_of_its_directory_unless_it_declares_one() -> None:
    assert opened(Lamp(), RO("file", lambda _: 1)).getattr().size == 4096
    assert opened(Lamp(), RO("file", lambda _: 1), file_size=0).getattr().size == 0
    assert opened(Lamp(), RO("file", lambda _: 1, size=7), file_size=0).getattr().size == 7
    assert opened(Lamp(), RO("file", lambda _: 1, size=lambda lamp: lamp.watts)).getattr().size == 60


def test_a_type_checker_knows_the_object_of_a_lambda() -> None:
    """mypy and pyright report an ignore comment as unnecessary once a lambda's parameter is Any."""
    table: tuple[Entry[Lamp], ...] = (
        RO("show", lambda lamp: lamp.volts),  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]
    )
    kind = DirectoryKind[Lamp](
        "lamp",
        lambda lamp: f"/{lamp.volts}",  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]
        (
            *table,
            RW("right", lambda lamp: lamp.watts, lambda lamp, buffer: lamp.store(buffer)),
            WO("store", lambda lamp, _: lamp.put()),  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]
        ),
    )
    assert [entry.name for entry in kind.entries if isinstance(entry, Attribute)] == ["show", "right", "store"]
    with pytest.raises(AttributeError):
        read(table[0])
