"""Booting a guest, and going on from its state after boot.

The first boot of a guest with a kernel saves its state into the cache folder; later ones restore it.
The state depends on the kernel, on QEMU, on the guest's description, and with KVM on the host's
processor: all of them are in its name.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from fakesysfs.lab import agent, images, initramfs
from fakesysfs.lab.agent import Agent, SilentError
from fakesysfs.lab.archive import LabError, cache_folder, say
from fakesysfs.lab.images import KernelImage
from fakesysfs.lab.machines import GUESTS, MIB, Guest, Node
from fakesysfs.lab.qemu import DEVICES, Qemu, StateError

ATTEMPTS = 3
"""Under TCG about one boot of seven dies early, in a race with code that is being patched."""

BOOT_SECONDS = 120
KVM_SECONDS = 15
"""A guest that does not boot with KVM within so long is booted without."""

_KERNEL_ARGUMENTS = (
    "console=ttyS0", "panic=-1", "quiet", "log_buf_len=4M", "printk.devkmsg=on", "tsc=reliable", "nokaslr"
)  # fmt: skip
"""Without KASLR the same blocks are unmovable in each boot. The clock jumps when a state is restored."""
_KVM = Path("/dev/kvm")
_CPUINFO = Path("/proc/cpuinfo")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(slots=True)
class Booted:
    """A guest that runs."""

    guest: Guest
    image: KernelImage
    accelerator: str
    """`tcg` or `kvm`."""
    seconds: float
    """How long its start took."""
    restored: bool
    """Whether it went on from a saved state."""
    _qemu: Qemu
    _console: IO[bytes]

    @property
    def agent(self) -> Agent:
        """The agent in it."""
        return self._qemu.agent

    @property
    def console(self) -> str:
        """All that it wrote to its console."""
        self._console.flush()
        return Path(self._console.name).read_text(encoding="utf-8", errors="replace")

    def end(self) -> None:
        """End it."""
        self._qemu.end()
        self._console.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def command_line(guest: Guest) -> str:
    """The command line of a guest's kernel."""
    return " ".join((*_KERNEL_ARGUMENTS, *guest.kernel_arguments))


def boot(guest: Guest, image: KernelImage) -> Booted:
    """Start a guest: from its saved state, or by a boot whose state is saved. Raises LabError."""
    if not guest.restorable:
        return boot_afresh(guest, image)
    chosen = accelerator(image)
    state = _states() / f"{_identity(guest, image, chosen)}.state"
    if state.is_file():
        try:
            return _restore(guest, image, chosen, state)
        except StateError as error:
            say(f"the saved state is removed: {error}")
            state.unlink(missing_ok=True)
    _boot_and_save(guest, image, chosen, state)
    return _restore(guest, image, chosen, state)


def _restore(guest: Guest, image: KernelImage, kind: str, state: Path) -> Booted:
    return _start(guest, image, kind, lambda qemu: qemu.restore(state), ("-incoming", "defer"), restored=True)


def boot_afresh(guest: Guest, image: KernelImage) -> Booted:
    """Start a guest by a boot. Raises LabError."""
    return _boot(guest, image, accelerator(image))


def _states() -> Path:
    folder = cache_folder() / "states"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _boot_and_save(guest: Guest, image: KernelImage, kind: str, state: Path) -> None:
    say(f"booting {image} as guest {guest.name} ({kind})")
    with _boot(guest, image, kind) as booted:
        say(f"it answers after {booted.seconds:.1f} seconds; its state is kept in {state}")
        booted._qemu.save(state)  # noqa: SLF001  its own module
    for older in _older_states(state):
        older.unlink(missing_ok=True)


def _older_states(state: Path) -> list[Path]:
    """The states of the same guest and kernel from before its description, its tools or QEMU changed."""
    guest = state.name.rpartition("-")[0]
    return [path for path in state.parent.glob("*.state") if path != state and path.name.rpartition("-")[0] == guest]


def _boot(guest: Guest, image: KernelImage, kind: str) -> Booted:
    last: LabError | None = None
    for _ in range(ATTEMPTS):
        try:
            return _start(guest, image, kind, _as_it_is, (), restored=False)
        except LabError as error:
            last = error
    raise LabError(f"the guest {guest.name} does not boot (attempts: {ATTEMPTS}): {last}")


def _as_it_is(_qemu: Qemu) -> None:
    """A boot needs no preparation."""


def _start(
    guest: Guest,
    image: KernelImage,
    kind: str,
    prepare: Callable[[Qemu], None],
    more: tuple[str, ...],
    *,
    restored: bool,
) -> Booted:
    began = time.monotonic()
    console = tempfile.NamedTemporaryFile(prefix="fakesysfs-lab.", suffix=".console")  # noqa: SIM115  Booted has it
    arguments = [
        *guest.qemu_arguments(), "-accel", kind,
        "-kernel", str(image.vmlinuz), "-initrd", str(_initramfs(guest, image)), "-append", command_line(guest), *more,
    ]  # fmt: skip
    qemu = None
    try:
        qemu = Qemu(images.qemu(), arguments, console)
        prepare(qemu)
        _wait_for_agent(qemu, KVM_SECONDS if kind == "kvm" else BOOT_SECONDS)
    except BaseException as error:
        if qemu is not None:
            qemu.end()
        if isinstance(error, SilentError):
            raise LabError(f"{error}; its console: {_last_lines(console)}") from None
        console.close()
        raise
    return Booted(guest, image, kind, time.monotonic() - began, restored, qemu, console)


def _wait_for_agent(qemu: Qemu, seconds: float) -> None:
    """The first answer. A guest that has died ends its QEMU, and so the port."""
    qemu.agent.run([agent.call("access", "/", 0)], patience=1, seconds=seconds)


def _last_lines(console: IO[bytes]) -> str:
    """What a guest that has died said: why, or else its last lines."""
    lines = Path(console.name).read_text(encoding="utf-8", errors="replace").strip().split("\n")
    console.close()
    return " | ".join([line.strip() for line in lines if _REASON.search(line)][:3] or lines[-5:])


_REASON = re.compile(r"Kernel panic|Oops|BUG:")


def _initramfs(guest: Guest, image: KernelImage) -> Path:
    """Its initramfs, built if it is not there. Raises LabError."""
    path = _initramfs_path(guest, image)
    if not path.is_file():
        _write(path, initramfs.build(image, guest.modules, agent.program(cache_folder()), images.guest_tools()))
    return path


def _initramfs_path(guest: Guest, image: KernelImage) -> Path:
    parts = [*_build(image), *guest.modules, images.tools_folder().name, agent.program_path(cache_folder()).name]
    return _states() / f"initramfs-{image.version}-{_key(parts)}.cpio"


def _key(parts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _write(path: Path, data: bytes) -> None:
    """Write a file at once: another process sees all of it or nothing."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f"{path.name}.", suffix=".part", delete=False) as part:
        part.write(data)
    Path(part.name).replace(path)


def _build(image: KernelImage) -> tuple[str, ...]:
    """What differs between two builds of a kernel in one folder."""
    status = image.vmlinuz.stat()
    return str(image.vmlinuz), str(status.st_size), str(status.st_mtime_ns)


def _identity(guest: Guest, image: KernelImage, kind: str) -> str:
    """A name for the state of a guest after boot."""
    parts = [
        *images.qemu().words, *map(str, images.qemu_version()), *DEVICES, *guest.qemu_arguments(), kind,
        *([_processor()] if kind == "kvm" else []), command_line(guest), str(_initramfs_path(guest, image)),
        *_build(image),
    ]  # fmt: skip
    return f"{image.version}-{guest.name}-{_key(parts)}"


def _processor() -> str:
    """The model of the host's processor, or an empty text where the kernel does not say it."""
    found = re.search(r"^model name\s*: (.*)$", _CPUINFO.read_text(encoding="ascii", errors="replace"), re.MULTILINE)
    return found[1] if found else ""


def current_files(kernels: Iterable[KernelImage]) -> set[Path]:
    """The files in the folder of states that a boot of these kernels uses, whether they are there or not.

    QEMU must be there: without it no state can be used.
    """
    found = {_note()}
    for image in kernels:
        for guest in GUESTS.values():
            found.add(_initramfs_path(guest, image))
            if guest.restorable:
                found |= {_states() / f"{_identity(guest, image, kind)}.state" for kind in ("tcg", "kvm")}
    return found


_PROBE = Guest("probe", (Node(512 * MIB, "0-0"),), modules=())


@functools.cache
def accelerator(image: KernelImage) -> str:
    """`kvm` where a guest answers within seconds with it, else `tcg`. $FAKESYSFS_LAB_ACCELERATOR decides if it is set.

    It is tried once for each start of the host.
    """
    chosen = os.environ.get("FAKESYSFS_LAB_ACCELERATOR")
    if chosen or not os.access(_KVM, os.R_OK | os.W_OK):
        return chosen or "tcg"
    note = _note()
    if not note.is_file():
        try:
            with _start(_PROBE, image, "kvm", _as_it_is, (), restored=False):
                _write(note, b"kvm")
        except LabError as error:
            say(f"guests run without KVM: with it none answers within {KVM_SECONDS} seconds ({error})")
            _write(note, b"tcg")
    return note.read_text(encoding="ascii")


def _note() -> Path:
    """Where `accelerator` keeps what it found since the start of the host."""
    return _states() / f"accelerator-{_BOOT_ID.read_text(encoding='ascii').strip()}"
