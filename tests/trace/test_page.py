"""The page of a trace in a real browser: it shows what the model was, and needs nothing but itself."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest

from fakesysfs.kernel.dax.bus import DevDax
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.testing import Machine
from fakesysfs.testing.machine import RunningMachine
from fakesysfs.trace import Recorder
from fakesysfs.trace.timeline import page as page_of
from tests.trace.replayed import Events, cells_of

pytestmark = [pytest.mark.ci, pytest.mark.tools]

HOTPLUG = "/sys/bus/dax/devices/dax0.0/hotplug"
BLOCK = "/sys/devices/system/memory/memory{}/state"
REGION = "/sys/devices/platform/ACPI0017:00/root0/decoder0.0/region0/dax_region0/dax_region"

Row = Mapping[int, tuple[str, str]]
"""State and zone of the blocks of a row, without those that were removed."""


def missing(why: str) -> NoReturn:
    """A browser is there in continuous integration."""
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        missing("chromium is not installed: `apt-get install chromium`")
    try:
        from playwright.sync_api import sync_playwright  # noqa: PLC0415  it may be missing
    except ImportError:
        missing("playwright is not installed: `.venv/bin/pip install -e .[browser]`")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


class Page:
    """A page that was opened from disk, and what the browser complained about."""

    def __init__(self, browser: Any, file: Path, scheme: str = "light") -> None:
        self.tab = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("console", lambda message: self.complaints.append(message.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.goto(file.as_uri())
        self.address = file.as_uri()

    def move_to(self, place: int) -> None:
        """Move the slider of the time."""
        self.tab.eval_on_selector(
            "#when", "(slider, place) => { slider.value = place; slider.dispatchEvent(new Event('input')); }", place
        )

    def rows(self) -> dict[str, Row]:
        """The cells that the map shows."""
        cells = self.tab.eval_on_selector_all(
            "#rows .row[data-row] .cell",
            """cells => cells.filter(cell => cell.dataset.state !== "absent").map(cell => [
                cell.parentElement.dataset.row, Number(cell.dataset.first), Number(cell.dataset.last),
                cell.dataset.state, cell.dataset.zone])""",
        )
        found: dict[str, dict[int, tuple[str, str]]] = {}
        for row, first, last, state, zone in cells:
            for block in range(first, last + 1):
                found.setdefault(row, {})[block] = state, zone
        return found  # type: ignore[return-value]  # values are as good

    def press(self, *keys: str) -> None:
        self.tab.focus("#lanes")
        for key in keys:
            self.tab.keyboard.press(key)

    def text(self, selector: str) -> str:
        return str(self.tab.inner_text(selector))


def rows_of(kernel: Kernel) -> dict[str, Row]:
    """The same of the model."""
    rows: dict[str, dict[int, tuple[str, str]]] = {}
    cells = cells_of(kernel)
    for block, (state, zone, nodes) in cells.items():
        for node in nodes:
            rows.setdefault(f"node{node}", {})[block] = state, zone or ""
    size = kernel.setup.block_size
    for name, device in kernel.dax_bus.devices.items():
        assert isinstance(device, DevDax)
        for mapping in device.mappings:
            for block in range(-(-mapping.range.start // size), (mapping.range.end + 1) // size):
                if block in cells:
                    rows.setdefault(name, {})[block] = cells[block][0], cells[block][1] or ""
    return rows  # type: ignore[return-value]


class Moment(NamedTuple):
    """What the model was when so many events had happened."""

    place: int
    time: float
    rows: dict[str, Row]


class Story:
    """A machine in process, its events, and the moments to compare."""

    def __init__(self, machine: RunningMachine) -> None:
        self.machine = machine
        self.events = Events()
        self.moments: list[Moment] = []
        Recorder(machine._sysroot, [self.events], "default")

    def look(self) -> None:
        """Remember this moment."""
        rows = rows_of(self.machine._sysroot.kernel)
        self.moments.append(Moment(len(self.events) - 1, self.machine.now, rows))

    def refused(self, path: str, data: str) -> None:
        with pytest.raises(OSError, match="Errno"):
            self.machine.write(path, data)


def tell(machine: RunningMachine) -> Story:
    """Ten moments: one removal with latency, refusals, another device, a reset."""
    story = Story(machine)
    story.look()
    machine.set_latency(offline_block=0.25, online_block=0.125)
    remover = machine.start_write(HOTPLUG, "unplug")
    onliner = machine.start_write(BLOCK.format(70), "online")
    for seconds in (0.1, 1.2, 3.05):
        machine.advance(seconds)
        story.look()
    remover.result()
    with pytest.raises(OSError, match="No such device"):
        onliner.result()
    story.look()
    plugger = machine.start_write(HOTPLUG, "online")
    machine.advance(2)
    story.look()
    plugger.result()
    story.look()
    story.refused(HOTPLUG, "online_movable")
    machine.set_latency(offline_block=0, online_block=0)
    machine.write(f"{REGION}/create", "1")
    machine.write("/sys/bus/dax/devices/dax0.1/size", str(3 << 27))
    machine.write("/sys/bus/dax/drivers/kmem/bind", "dax0.1")
    story.look()
    machine.write(BLOCK.format(97), "offline")
    story.look()
    machine.write("/control/reset", "1")
    machine.write(BLOCK.format(64), "offline")
    story.look()
    return story


@pytest.fixture(scope="module")
def story() -> Story:
    with Machine() as machine:
        return tell(machine)


@pytest.fixture(scope="module")
def file(story: Story, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "page.html"
    file.write_text(page_of(story.events, "story"), "utf-8")
    return file


@pytest.fixture
def page(browser: Any, file: Path) -> Iterator[Page]:
    opened = Page(browser, file)
    yield opened
    assert opened.complaints == []
    assert opened.requests == [opened.address]
    opened.tab.close()


def test_the_map_is_the_model_at_ten_times_cell_by_cell(page: Page, story: Story) -> None:
    assert len(story.moments) == 10
    assert len({str(moment.rows) for moment in story.moments}) >= 9
    for moment in (*story.moments, *reversed(story.moments)):
        page.move_to(moment.place)
        assert page.rows() == moment.rows, moment.time


def test_states_have_colours_of_their_own_and_a_legend(page: Page, story: Story) -> None:
    page.move_to(story.moments[2].place)
    shown = page.tab.eval_on_selector_all(
        "#rows .cell",
        "cells => cells.map(cell => [cell.dataset.state, cell.dataset.zone, getComputedStyle(cell).background])",
    )
    colours = {(state, zone): background for state, zone, background in shown if state != "absent"}
    assert {("going-offline", "Movable"), ("offline", ""), ("online", "Movable"), ("online", "Normal")} <= set(colours)
    assert len(set(colours.values())) == len(colours)
    legend = page.text("#legend")
    for word in ("online Movable", "online Normal", "offline", "going-offline", "removed"):
        assert word in legend


def test_keys_go_from_refusal_to_refusal_and_from_event_to_event(page: Page) -> None:
    page.press("r")
    assert "ENODEV: memory70 was removed [state_store]" in page.text("#details")
    assert page.tab.get_attribute("#details", "class") == "refused"
    page.press("r")
    assert "EBUSY" in page.text("#details")
    page.press("Shift+R")
    assert "ENODEV" in page.text("#details")
    first = page.text("#details")
    page.press("ArrowLeft")
    assert page.text("#details") != first
    page.press("ArrowRight")
    assert page.text("#details") == first
    page.press("ArrowDown")
    assert "holds" in page.text("#details")
    page.press("Escape")
    assert "Choose an event" in page.text("#details")


def test_the_mouse_shows_an_event_and_moves_the_map(page: Page, story: Story) -> None:
    box = page.tab.query_selector("#canvas").bounding_box()
    page.tab.mouse.move(box["x"] + 180 + (box["width"] - 180) * 0.3, box["y"] + 40)
    tip = page.text("#tip")
    assert "hotplug" in tip
    assert "memory" in page.tab.get_attribute("#rows .cell[data-state='going-offline']", "title")
    assert story.moments[0].time < float(page.text("#now").split()[0]) < story.moments[-1].time
    page.tab.mouse.move(box["x"] + 5, box["y"] - 40)
    assert page.tab.is_hidden("#tip")


def test_a_click_selects_and_the_selection_stays(page: Page) -> None:
    box = page.tab.query_selector("#canvas").bounding_box()
    page.tab.mouse.click(box["x"] + 180 + (box["width"] - 180) * 0.3, box["y"] + 40)
    assert "hotplug" in page.text("#details")
    page.tab.mouse.move(box["x"] + 5, box["y"] - 40)
    assert "hotplug" in page.text("#details")


def test_the_search_finds_and_the_table_says_the_same(page: Page, story: Story) -> None:
    page.tab.click("#table-of-events summary")
    everything = page.tab.locator("#table tr").count()
    assert everything > 100
    page.tab.keyboard.press("/")
    page.tab.keyboard.type("memory70 was removed")
    # the call, and its wait for the lock
    assert page.text("#found") == "2 found"
    table = page.text("#table")
    assert "ENODEV: memory70 was removed [state_store]" in table
    assert "waits for device_hotplug_lock" in table
    page.tab.keyboard.press("Enter")
    assert "ENODEV" in page.text("#details")
    page.tab.keyboard.press("/")
    page.tab.keyboard.press("Escape")
    assert page.tab.locator("#table tr").count() == everything


def test_names_and_reads_can_be_left_out(page: Page, story: Story) -> None:
    page.tab.click("#table-of-events summary")
    with_reads = page.tab.locator("#table tr").count()
    page.tab.uncheck("#reads")
    assert page.tab.locator("#table tr").count() < with_reads


def test_light_and_dark(browser: Any, file: Path) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    light, dark = (Page(browser, file, scheme) for scheme in ("light", "dark"))
    white, black = light.tab.evaluate(background), dark.tab.evaluate(background)
    assert white != black
    for page, other in ((light, black), (dark, white)):
        page.tab.click("#theme")
        assert page.tab.evaluate(background) == other
        assert page.complaints == []
        page.tab.close()


def test_a_machine_of_64_tib_has_runs_for_columns(browser: Any, tmp_path: Path) -> None:
    with Machine("huge") as machine:
        story = Story(machine)
        story.look()
        device = machine.ls("/sys/bus/dax/devices")[0]
        machine.write(
            BLOCK.format(machine._sysroot.kernel.memory_blocks.lowest_online(1, movable=True) or 64), "offline"
        )
        story.look()
        machine.write(f"/sys/bus/dax/devices/{device}/hotplug", "unplug")
        story.look()
    file = tmp_path / "huge.html"
    file.write_text(page_of(story.events, "huge"), "utf-8")
    page = Page(browser, file)
    assert page.tab.locator("#rows .cell").count() < 200
    for moment in story.moments:
        page.move_to(moment.place)
        assert page.rows() == moment.rows
    assert page.complaints == []
    page.tab.close()
