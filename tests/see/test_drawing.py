"""Drawings of the map and of the screen of `fakesysfs watch`, at fixed sizes."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console
from rich.text import Text

from fakesysfs.see import scene, svg, terminal
from fakesysfs.see.feed import Scene, decoded, encoded
from fakesysfs.see.memory import BlockRun, Device, MemoryMap
from fakesysfs.see.rows import ABSENT, LOOKS, Row, Span, lay_out, look_of, rows, size, title
from fakesysfs.testing import Machine
from tests.see.files import map_of

HOTPLUG = "/sys/bus/dax/devices/dax0.0/hotplug"
STATE = "/sys/devices/system/memory/memory70/state"
BLOCK = 128 << 20


@pytest.fixture(scope="module")
def default() -> MemoryMap:
    with Machine() as machine:
        return map_of(machine)


@pytest.fixture(scope="module")
def huge() -> Iterator[MemoryMap]:
    with Machine("huge") as machine:
        yield map_of(machine)


def plain(memory: MemoryMap, width: int = 80, height: int = 24, *, squares: bool = False) -> list[str]:
    return [line.plain for line in terminal.draw(memory, width, height, squares=squares, heading="mnt")]


# The map in a terminal ---------------------------------------------------------------------------------------------


def test_default_machine(default: MemoryMap) -> None:
    assert plain(default) == [
        "mnt: 80 blocks of 128 MiB: 10 GiB, all online",
        "node0  32 blocks, 4 GiB: 15 DMA32, 16 Normal, 1 several zones",
        "     0 sDDDDDDD DDDDDDDD",
        "    32 NNNNNNNN NNNNNNNN",
        "node1  16 blocks, 2 GiB: 16 Normal",
        "    48 NNNNNNNN NNNNNNNN",
        "node2  32 blocks, 4 GiB: 32 Movable",
        "    64 MMMMMMMM MMMMMMMM MMMMMMMM MMMMMMMM",
        "dax0.0 32 blocks, 4 GiB: 32 Movable (kmem, node2)",
        "    64 MMMMMMMM MMMMMMMM MMMMMMMM MMMMMMMM",
        "D DMA32  N Normal  M Movable  s several zones",
    ]


def test_narrow(default: MemoryMap) -> None:
    assert plain(default, 24, 60)[-10:] == [
        "dax0.0 32 blocks, 4 GiB:",
        "       32 Movable (kmem,",
        "       node2)",
        "    64 MMMMMMMM",
        "    72 MMMMMMMM",
        "    80 MMMMMMMM",
        "    88 MMMMMMMM",
        "D DMA32  N Normal",
        "M Movable",
        "s several zones",
    ]


def test_no_line_is_too_wide(default: MemoryMap, huge: MemoryMap) -> None:
    for memory in (default, huge):
        for width in range(16, 260):
            assert max(map(len, plain(memory, width, 40))) <= width, width


def test_the_height(huge: MemoryMap) -> None:
    """As many blocks in a square as it takes."""
    for height in (12, 24, 60, 200):
        assert len(plain(huge, 80, height)) <= height
    assert "one letter: 2,048 blocks, 256 GiB" in plain(huge)[-1]


def test_unplugged_and_offline() -> None:
    with Machine() as machine:
        machine.write(STATE, "offline")
        assert plain(map_of(machine))[7] == "    64 MMMMMMoM MMMMMMMM MMMMMMMM MMMMMMMM"
        machine.write(STATE, "online_movable")
        machine.write(HOTPLUG, "unplug")
        drawn = plain(map_of(machine))
        assert drawn[0] == "mnt: 48 blocks of 128 MiB: 6 GiB, all online"
        assert drawn[-3:] == [
            "dax0.0 32 blocks, 4 GiB: 32 absent (kmem, node2)",
            "    64 ........ ........ ........ ........",
            "D DMA32  N Normal  s several zones  . absent",
        ]


def test_colours(default: MemoryMap) -> None:
    drawn = terminal.draw(default, 80, 24, squares=True)
    movable = next(line for line in drawn if line.plain.startswith("    64"))
    assert movable.plain.count(terminal.SQUARE) == 32
    assert {str(span.style) for span in movable.spans if span.start > 6} == {terminal.COLOURS["Movable"]}


def test_every_look_has_its_own_colour_and_letter() -> None:
    for table in (terminal.COLOURS, terminal.LETTERS, svg.COLOURS):
        assert set(table) == set(LOOKS)
        assert len(set(table.values())) == len(LOOKS)


@pytest.mark.parametrize(
    ("environment", "options", "squares"),
    [
        ({"TERM": "xterm-256color"}, {"force_terminal": True}, True),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, {"force_terminal": True}, False),
        ({"TERM": "dumb"}, {"force_terminal": True}, False),
        ({"TERM": "xterm-256color"}, {}, False),  # a pipe
    ],
)
def test_where_blocks_are_squares(environment: dict[str, str], options: dict[str, bool], *, squares: bool) -> None:
    class Utf8(io.StringIO):
        encoding = "utf-8"

    console = Console(file=Utf8(), _environ=environment, **options)  # type: ignore[arg-type]
    assert terminal.has_squares(console) is squares


def test_an_encoding_without_squares() -> None:
    file = io.TextIOWrapper(io.BytesIO(), "ascii")
    console = Console(file=file, _environ={"TERM": "xterm-256color"}, force_terminal=True)
    assert not terminal.has_squares(console)


def test_half_a_million_blocks_are_drawn_at_once(huge: MemoryMap) -> None:
    """In less than 100 ms, for which this process has the processor."""
    began = time.process_time()
    terminal.draw(huge, 200, 60, squares=True)
    assert time.process_time() - began < 0.1


# Rows and squares --------------------------------------------------------------------------------------------------


def row(*spans: tuple[int, int, str]) -> Row:
    return Row("node0", tuple(Span(*span) for span in spans))


def letters(*spans: tuple[int, int, str], columns: int = 8, height: int = 100) -> list[tuple[int, str]]:
    """The lines of a row: the number of the first block, and the squares by their first letters."""
    (lines,) = lay_out([row(*spans)], columns, height).lines
    return [(line.block, "".join(look[0] if look else " " for look in line.squares)) for line in lines]


def test_gaps() -> None:
    assert letters((0, 1, "Normal"), (4, 5, "Movable")) == [(0, "NN  MM")]
    assert letters((0, 1, "Normal"), (40, 41, "Movable")) == [(0, "NN"), (40, "MM")]


def test_squares_for_several_blocks() -> None:
    assert letters((0, 31, "Normal"), height=4) == [(first, "NNNNNNNN") for first in (0, 8, 16, 24)]
    assert letters((0, 31, "Normal"), height=2) == [(0, "NNNNNNNN"), (16, "NNNNNNNN")]
    assert letters((0, 31, "Normal"), height=1) == [(0, "NNNNNNNN")]


def test_a_square_whose_blocks_differ() -> None:
    assert letters((0, 16, "Normal"), (17, 31, "Movable"), height=1) == [(0, "NNNNdMMM")]
    assert letters((0, 4, "Normal"), (5, 5, "offline"), (6, 31, "Normal"), height=1) == [(0, "NdNNNNNN")]
    assert (
        letters((0, 0, "Normal"), (1, 1, "Movable"), (2, 2, "Normal"), (3, 31, "Movable"), height=1)[0][1] == "dMMMMMMM"
    )


def test_more_stretches_than_lines() -> None:
    """Each has a line all the same."""
    assert len(letters(*((number * 1000, number * 1000, "Normal") for number in range(5)), height=2)) == 5


def test_the_part_of_a_device_that_is_plugged() -> None:
    runs = (BlockRun(2, 3, (1,), "online", "Movable"), BlockRun(6, 9, (1,), "offline", ""))
    device = Device("dax0.0", "kmem", 1, ((0, 7),), readable=True)
    made = rows(MemoryMap(BLOCK, runs, (0, 1), (device,)))
    assert [one.name for one in made] == ["node0", "node1", "dax0.0"]
    assert made[2].spans == (
        Span(0, 1, ABSENT),
        Span(2, 3, "Movable"),
        Span(4, 5, ABSENT),
        Span(6, 7, "offline"),
    )
    assert title(made[0], BLOCK) == "no memory"
    assert title(made[2], BLOCK) == "8 blocks, 1 GiB: 2 Movable, 2 offline, 4 absent (kmem, node1)"


@pytest.mark.parametrize(
    ("device", "words"),
    [
        (Device("dax0.0", "", -1, (), readable=True), "(no driver, no whole block)"),
        (Device("dax0.0", "kmem", 1, (), readable=False), "(kmem, node1, only root may read where it is)"),
    ],
)
def test_devices_without_blocks(device: Device, words: str) -> None:
    assert title(rows(MemoryMap(BLOCK, (), (), (device,)))[0], BLOCK) == words


def test_blocks_without_a_node() -> None:
    memory = MemoryMap(BLOCK, (BlockRun(0, 1, (), "online", "Normal"),), (), ())
    assert plain(memory)[1:3] == ["memory 2 blocks, 256 MiB: 2 Normal", "     0 NN"]


def test_a_zone_that_nobody_knows() -> None:
    memory = MemoryMap(BLOCK, (BlockRun(0, 0, (0,), "online", "Device"),), (0,), ())
    assert plain(memory)[-2:] == ["    0 ?", "? Device"]
    assert "Device" in svg.draw(memory, "x")


def test_several_zones() -> None:
    assert look_of(BlockRun(0, 0, (0,), "online", "none")) == "several zones"


@pytest.mark.parametrize(("number", "text"), [(0, "0 B"), (BLOCK, "128 MiB"), (3 << 30, "3 GiB"), (1 << 46, "64 TiB")])
def test_sizes(number: int, text: str) -> None:
    assert size(number) == text


# Pictures ----------------------------------------------------------------------------------------------------------


def test_picture(default: MemoryMap) -> None:
    picture = ET.fromstring(svg.draw(default, "a <machine> & more"))  # noqa: S314  our own
    tips = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}title")]
    assert tips[0] == "a <machine> & more"
    assert tips.count("memory64: Movable") == 2  # of its node, and of its device
    assert len(tips) == 1 + 80 + 32
    height = int(picture.attrib["height"])
    for element in picture.iter("{http://www.w3.org/2000/svg}rect"):
        assert float(element.get("x", 0)) + float(element.attrib["width"]) <= svg.WIDTH
        assert float(element.get("y", 0)) + float(element.attrib["height"]) <= height


def test_picture_of_half_a_million_blocks(huge: MemoryMap) -> None:
    picture = svg.draw(huge, "huge")
    assert picture.count("<rect") < svg.MOST_LINES * svg.COLUMNS + 10
    assert "one square: " in picture


# The screen of watch -----------------------------------------------------------------------------------------------

CALL = {
    "seq": 0,
    "time": 1.0,
    "pid": 4711,
    "comm": "bash",
    "uid": 0,
    "op": "write",
    "path": "/sys/devices/x/dax0.0/hotplug",
    "data": "unplug\n",
    "duration": 0.1,
    "result": 7,
    "errno": None,
    "reason": None,
    "func": None,
}


def test_operations() -> None:
    refused = CALL | {"result": None, "errno": "EBUSY", "reason": "memory70 has an unmovable page"}
    assert scene.call_line(CALL).plain == '4711 bash: write dax0.0/hotplug "unplug\\n": 7 bytes'
    assert scene.call_line(CALL | {"duration": None, "result": None}).plain.endswith(": under way")
    assert scene.call_line(refused).plain.endswith("EBUSY (memory70 has an unmovable page)")
    assert scene.call_line(refused | {"op": "open", "data": ""}).plain.startswith(
        "4711 bash: open dax0.0/hotplug: EBUSY"
    )


def events(*lines: str) -> list[dict[str, str]]:
    return [dict(zip(("action", "devpath"), line.split("@"), strict=True)) for line in lines]


def test_uevents_of_neighbours_are_one_line() -> None:
    came = events("offline@/m/memory64", "offline@/m/memory65", "remove@/m/memory66", "remove@/m/memory68", "add@/x")
    assert list(scene.uevent_lines(came)) == [
        "offline@/m/memory64 to memory65",
        "remove@/m/memory66",
        "remove@/m/memory68",
        "add@/x",
    ]


@pytest.mark.parametrize("name", ["default", "huge"])
def test_the_screen_is_filled_and_not_exceeded(name: str, request: pytest.FixtureRequest) -> None:
    memory: MemoryMap = request.getfixturevalue(name)
    shown = Scene(memory, [CALL] * 50, events("add@/m/memory1") * 50, ["<6>[ 0.000000] text"] * 50, 0)
    for width in (20, 80, 200):
        for height in (3, 8, 24, 60):
            lines = scene.draw(shown, width, height, squares=False, heading="mnt", status="q: quit")
            assert len(lines) == height
            assert max(line.cell_len for line in lines) <= width
            assert lines[-1] == Text("q: quit", "bright_black")


def test_lists_of_the_screen(default: MemoryMap) -> None:
    shown = Scene(default, [CALL], events("add@/x"), ["<6>[ 0.000000] text"], 0)
    lines = [line.plain for line in scene.draw(shown, 80, 24, squares=False, heading="mnt", status="q: quit")]
    assert [line for line in lines[11:] if line] == [
        "operations",
        '4711 bash: write dax0.0/hotplug "unplug\\n": 7 bytes',
        "uevents",
        "add@/x",
        "log",
        "<6>[ 0.000000] text",
        "q: quit",
    ]


def test_a_scene_survives_the_pipe(default: MemoryMap) -> None:
    shown = Scene(default, [CALL], events("add@/x"), ["text"], 3)
    assert decoded(encoded(shown)) == shown
