"""The nd bus's devices that lead to a static dax region.

drivers/nvdimm/{region,namespace,pfn,dax}_devs.c.

Recorded: snapshot 7.2/06-pmem-devdax. The use of a namespace cannot be changed here; that is an
operation of the kernel model (`dax.pmem.create_pmem_devdax`).
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from fakesysfs.kernel.cxl.pmem import CxlNvdimmBridge, Nvdimm
from fakesysfs.kernel.dax.pmem import NdDevice, PmemMedia
from fakesysfs.kernfs.declare import RO, RW, DirectoryKind, Group, Subdirectories
from fakesysfs.ops.errors import KernelError
from fakesysfs.sysfs.common import always_0, subsystem, uevent
from fakesysfs.sysfs.dax import DAX_REGION, DRIVER_LINK, device_path

_REGION, _NAMESPACE, _DAX, _BUS = "nd_pmem", "nd_namespace_io", "nd_dax", "nd_bus"


def _media(device: NdDevice) -> PmemMedia:
    assert device.media is not None
    return device.media


def _refuse(device: NdDevice, _buffer: bytes) -> None:
    """The `store` of what can be written while the device is not in use; here it always is."""
    raise KernelError(errno.EBUSY, f"{device.name} is in use", "nd_pfn_store")


def _refuse_security(nvdimm: Nvdimm, _buffer: bytes) -> None:
    """The `store` of `security`: no command of it is known here."""
    raise KernelError(errno.EINVAL, f"{nvdimm.name} takes no command here", "security_store")


def _is(*devtypes: str) -> Callable[[NdDevice], bool]:
    """The attribute exists on devices of these types."""
    return lambda device: device.devtype in devtypes


def _align_show(device: NdDevice) -> str:
    return f"{_media(device).align}" if device.devtype == _DAX else f"{16 << 20:#x}"


def _mode_show(device: NdDevice) -> str:
    """A namespace that no device has claimed is "memory", as its pages would be mapped (mode_show)."""
    if device.devtype == _DAX:
        return "ram"
    return "dax" if _holder_show(device) else "memory"


def _holder_show(device: NdDevice) -> str:
    assert device.parent is not None
    return next((child.name for child in device.parent.children.values() if getattr(child, "devtype", "") == _DAX), "")


def _provider_show(device: NdDevice) -> str:
    return "CXL" if isinstance(device.parent, CxlNvdimmBridge) else "e820"


_ON_BUS, _ON_REGION, _ON_NAMESPACE, _ON_DAX = _is(_BUS), _is(_REGION), _is(_NAMESPACE), _is(_DAX)
_ON_ALL_BUT_BUS = _is(_REGION, _NAMESPACE, _DAX)

ND_DEVICE = DirectoryKind[NdDevice](
    "nd device",
    device_path,
    (
        RO("devtype", lambda device: device.devtype, "Type of the device on the nd bus.", visible=_ON_ALL_BUT_BUS),
        RO("modalias", lambda device: device.modalias, "What modules are matched by.", visible=_ON_ALL_BUT_BUS),
        RW("align", _align_show, _refuse, "Alignment in bytes; hexadecimal of a region.", visible=_is(_REGION, _DAX)),
        RO("size", lambda device: device.span.length, "Bytes.", visible=_ON_ALL_BUT_BUS),
        RO("resource", lambda device: f"{device.span.start:#x}", "First byte.", mode=0o400, visible=_ON_ALL_BUT_BUS),
        RO("numa_node", lambda device: f"{device.numa_node}", "Nearest online node.", visible=_ON_ALL_BUT_BUS),
        RO(
            "target_node",
            lambda device: _media(device).setup.target_node,
            "Node that the memory is on.",
            visible=_ON_ALL_BUT_BUS,
        ),
        RO("nstype", lambda _: 4, "Type of the namespaces (nd_namespace_io).", visible=_is(_REGION, _NAMESPACE)),
        RO("mappings", always_0, "DIMMs of the region: none are known.", visible=_ON_REGION),
        RO("holder", _holder_show, "The device that has claimed the namespace.", visible=_ON_NAMESPACE),
        RW(
            "mode",
            _mode_show,
            _refuse,
            "Of a namespace: memory, or dax while its dax device has claimed it; of that dax device: ram (the memory "
            "map is not kept on the namespace).",
            mode=0o444,
            narrow=lambda device: 0o644 if device.devtype == _DAX else 0o444,
            visible=_is(_NAMESPACE, _DAX),
        ),
        RW(
            "namespace",
            lambda device: device.namespace.name,
            _refuse,
            "The namespace that it has claimed.",
            visible=_ON_DAX,
        ),
        RO("supported_alignments", lambda _: "4096 2097152 1073741824 ", "Values for `align`.", visible=_ON_DAX),
        RW("uuid", lambda device: _media(device).uuid, _refuse, "Name of what is on the namespace.", visible=_ON_DAX),
        RO("provider", _provider_show, "Who offers the bus: e820 or CXL.", visible=_ON_BUS),
        RO("commands", lambda _: "", "Commands of the bus: none.", visible=_ON_BUS),
        RO("wait_probe", lambda _: 1, "Reads when all devices were probed.", visible=_ON_BUS),
        Group(name="firmware", entries=(), visible=_ON_BUS, doc="Update of the firmware of DIMMs: not this way."),
        uevent(lambda device: device.devpath, "nd", lambda device: device.uevent_environment()),
        subsystem("nd"),
        DRIVER_LINK,
        DAX_REGION,
        Subdirectories(of=lambda device: device.children, doc="Devices below."),
    ),
)


NVDIMM = DirectoryKind[Nvdimm](
    "nvdimm",
    device_path,
    (
        RO("available_slots", lambda nvdimm: nvdimm.available_slots, "How many labels can be added."),
        RO("commands", lambda _: "get_size get_data set_data ", "Commands for its labels."),
        RO("dev", lambda nvdimm: f"{nvdimm.major}:{nvdimm.number}", "Major and minor number of /dev/nmemN."),
        RO("devtype", lambda nvdimm: nvdimm.devtype, "Type of the device on the nd bus."),
        RO("flags", lambda _: "label ", "label: it has labels."),
        RO("frozen", always_0, "1: its protection cannot be changed."),
        RO("modalias", lambda nvdimm: nvdimm.modalias, "What modules are matched by."),
        RW("security", lambda _: "disabled", _refuse_security, "Whether a passphrase protects the memory."),
        RO("state", lambda _: "idle", "idle, or active while a region uses it."),
        Group(
            name="cxl",
            entries=(
                RO("id", lambda nvdimm: nvdimm.memdev.setup.serial, "Serial number of the memory device."),
                RO("provider", lambda nvdimm: nvdimm.pmem.name, "The device pmemN."),
            ),
            doc="What CXL says of it.",
        ),
        Group(name="firmware", entries=(), doc="Update of the firmware: not this way."),
        uevent(lambda nvdimm: nvdimm.devpath, "nd", lambda nvdimm: nvdimm.uevent_environment()),
        subsystem("nd"),
        DRIVER_LINK,
    ),
)
