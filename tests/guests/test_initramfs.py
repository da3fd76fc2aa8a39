"""What a guest's root has."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from fakesysfs.lab import initramfs
from fakesysfs.lab.images import KernelImage
from tests.guests.test_cpio import entries


@pytest.fixture
def image(tmp_path: Path) -> KernelImage:
    """A kernel with three modules: kmem needs device_dax and, as a soft dependency, one that is built in."""
    folder = tmp_path / "kernel/usr/lib/modules/7.3-amd64"
    modules = {
        "drivers/dax/kmem.ko.xz": b"\0depends=device-dax\0softdep=pre: builtin\0",
        "drivers/dax/device_dax.ko.xz": b"\0depends=\0",
        "drivers/dax/other.ko.xz": b"\0depends=\0",
    }
    for name, text in modules.items():
        path = folder / "kernel" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(lzma.compress(b"ELF" + text))
    return KernelImage("7.3-1", folder)


def test_dependencies_of_a_module() -> None:
    assert initramfs.depends(b"x\0depends=libnvdimm,nd-x\0alias=y\0softdep=pre: cxl_acpi cxl-port post: z\0")[:2] == [
        "libnvdimm",
        "nd_x",
    ]
    assert initramfs.depends(b"\0depends=\0") == []


def test_the_root(image: KernelImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initramfs, "_index", lambda *_: None)  # the guest's depmod is a fetched program
    tools = tmp_path / "tools"
    for name in ("usr/bin/bash", "usr/share/doc/bash", "usr/lib/x86_64-linux-gnu/gconv/x.so", "lib/ignored"):
        (tools / name).parent.mkdir(parents=True, exist_ok=True)
        (tools / name).write_text(name, encoding="ascii")
    found = entries(initramfs.build(image, ["kmem"], b"the agent", tools))
    assert found["init"][1] == b"the agent"
    assert found["init"][0]["mode"] & 0o777 == 0o755
    assert found["lib64"][1] == b"usr/lib64"
    assert found["usr/bin/sh"][1] == b"dash"
    assert sorted(name for name in found if name.endswith((".ko", ".so", "doc/bash", "ignored"))) == [
        "usr/lib/modules/7.3-amd64/kernel/drivers/dax/device_dax.ko",
        "usr/lib/modules/7.3-amd64/kernel/drivers/dax/kmem.ko",
    ]
    assert found["usr/lib/modules/7.3-amd64/kernel/drivers/dax/kmem.ko"][1].startswith(b"ELF")
