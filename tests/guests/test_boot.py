"""A real kernel boots, answers the recorded sessions, and what is recorded of it replays on the model.

Takes minutes. A test fetches nothing: it is skipped, because of the reason that it gives, where no
kernel is in the cache folder (`tests/lab fetch` puts them there, 300 MB) or the lab cannot work.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from fakesysfs.lab import guest, images, machines
from fakesysfs.lab.agent import Out, Result, call
from fakesysfs.lab.archive import LabError
from fakesysfs.lab.images import KernelImage
from fakesysfs.replay import cli, record
from fakesysfs.replay.recording import load
from tests.real_kernels import unpacked_kernel

pytestmark = [pytest.mark.ci, pytest.mark.timeout(3600)]

SESSIONS = Path(__file__).parents[1] / "recordings/sessions"


@pytest.fixture(scope="module", params=images.SERIES)
def image(request: pytest.FixtureRequest) -> KernelImage:
    return unpacked_kernel(request.param)


def test_a_guest_goes_on_from_its_saved_state(image: KernelImage) -> None:
    description = machines.GUESTS["distribution"]
    for _ in range(2):
        with guest.boot(description, image) as booted:
            assert booted.restored
            (_, version) = booted.agent.run([call("open", "/proc/version", 0), call("read", Result(0), Out(100), 100)])
            assert image.release.encode() in version.data
            assert booted.seconds < guest.BOOT_SECONDS


def test_a_guest_that_dies_says_why(image: KernelImage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest, "ATTEMPTS", 1)
    broken = machines.DISTRIBUTION.with_arguments("broken", "rdinit=/nothing", "root=/dev/none")
    with pytest.raises(LabError, match=r"does not boot \(attempts: 1\): .*panic"):
        guest.boot_afresh(broken, image)


RECORDED = {"7.2": "7.2-distribution/01-boot.jsonl", "7.3": "7.3/08-transitions.jsonl"}


def test_a_recorded_session_is_reproduced(image: KernelImage) -> None:
    report = cli.replay(load(SESSIONS / RECORDED[image.series]), cli.Place("kernel"))
    assert [line for line in report.details() if "mismatch" in line] == []


SCRIPT = """
blocks
sh modprobe device_dax; modprobe dax_hmem; modprobe kmem
blocks
iomem
tiers
write /sys/bus/dax/drivers/kmem/unbind dax0.0
write /sys/devices/system/memory/memory81/state offline
write /sys/devices/system/memory/memory81/state online_kernel
blocks
ls /sys/bus/dax/devices/dax1.0
"""


def test_what_a_kernel_answers_is_replayed_on_the_model(image: KernelImage, tmp_path: Path) -> None:
    script, out = tmp_path / "short", tmp_path / "short.jsonl"
    script.write_text(SCRIPT, encoding="ascii")
    assert record.main(["--kernel-image", image.series, "-o", str(out), str(script)]) == 0
    recording = load(out)
    assert str(image) == recording.header["kernel"]
    assert list(cli.replay(recording).details()) == []
