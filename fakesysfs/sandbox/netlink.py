"""The model's uevents as uevents of the host's kernel, in a private network namespace and nowhere else.

The kernel broadcasts a uevent in a network namespace for a process with CAP_SYS_ADMIN over it: the process sends a
message of type 0x10 to port 0 of NETLINK_KOBJECT_UEVENT (lib/kobject_uevent.c, uevent_net_rcv_skb). The kernel adds
SEQNUM and sends it as its own, so udevd, udevadm and libudev accept it. The host's udevd would accept it, too: so
`Injector` refuses to work outside of a private network namespace.

A server in the namespace sends its uevents itself (`uevent_sender.py`): the names are in place before an event is
sent, and the event is sent before the write is answered, as on a real kernel. For a server elsewhere (--mount, --at) a
helper in the namespace reads control/uevents_announce (`follow`) and sends them; the answer waits for it.

A slow listener loses events, on a real kernel too. But there udevd has a buffer of 128 MiB, which only root outside of
all user namespaces may set. So a write waits up to PATIENCE_SECONDS for a slow listener.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from queue import SimpleQueue

from fakesysfs.sandbox import linux

NETLINK_KOBJECT_UEVENT = 15
_REQUEST = 1
_ANY_TYPE = 0x10
_ERROR = 2
_HEADER = "=IHHII"
_NS_GET_USERNS = 0xB701
_NS_GET_PARENT = 0xB702

EVENTS_AT_ONCE = 32
"""Events between two looks at the listeners. One takes about 1 KiB of a listener's buffer, which has 208 KiB."""
FULL_BYTES = 64 << 10
PATIENCE_SECONDS = 10.0
"""How long writes wait for a listener that does not read. After that they wait no more, until it has caught up."""
LOOK_SECONDS = 0.002


class NotPrivateError(RuntimeError):
    """Uevents must not be sent in this network namespace; the text says why."""


class NotPermittedError(RuntimeError):
    """Another user mounted it: only that user may send its uevents."""


def network_namespace() -> int:
    """The number of this process's network namespace."""
    return os.stat("/proc/self/ns/net").st_ino  # noqa: PTH116  the launcher does without pathlib


class Injector:
    """Broadcasts uevents in this process's network namespace.

    `outside` is the number of the network namespace that the user lives in. Raises NotPrivateError in that one, in one
    that belongs neither to this process's own user namespace nor to a child of it, and in the host's first user
    namespace.
    """

    def __init__(self, outside: int) -> None:
        _make_sure_that_it_is_private(outside)
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT)
        # It stays open: a limit of descriptors that is reached later does not stop the uevents.
        self._listeners = open("/proc/self/net/netlink", "rb", buffering=0)  # noqa: PTH123, SIM115  as long as this
        self._patience = PATIENCE_SECONDS

    def send(self, lines: Iterable[str]) -> None:
        """Send "action@devpath", "ACTION=..." and so on. Raises OSError."""
        text = "".join(f"{line}\0" for line in lines).encode("utf-8", "surrogateescape")
        header = struct.pack(_HEADER, struct.calcsize(_HEADER) + len(text), _ANY_TYPE, _REQUEST, 0, 0)
        self._socket.sendto(header + text, (0, 0))
        try:
            answer = self._socket.recv(4096, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return  # success is not reported
        if struct.unpack_from(_HEADER, answer)[1] == _ERROR:
            number = -struct.unpack_from("=i", answer, struct.calcsize(_HEADER))[0]
            raise OSError(number, os.strerror(number), "uevent")

    def listens(self) -> bool:
        """Whether a process listens to uevents in this network namespace."""
        return bool(self._unread())

    def must_wait(self) -> bool:
        """Whether to wait for a slow listener. Call it again after LOOK_SECONDS while it returns true."""
        if max(self._unread(), default=0) < FULL_BYTES:
            self._patience = PATIENCE_SECONDS
        elif self._patience > 0:
            self._patience -= LOOK_SECONDS
            return True
        return False

    def _unread(self) -> list[int]:
        """Bytes in the buffer of each listener to uevents in this network namespace."""
        self._listeners.seek(0)
        found = []
        for line in self._listeners.readall().splitlines()[1:]:
            _, protocol, port, groups, unread, *_ = line.split()
            if int(protocol) == NETLINK_KOBJECT_UEVENT and port != b"0" and int(groups, 16):
                found.append(int(unread))
        return found


def _make_sure_that_it_is_private(outside: int) -> None:
    if network_namespace() == outside:
        raise NotPrivateError("uevents are not sent outside of a private network namespace")
    own = os.stat("/proc/self/ns/user").st_ino  # noqa: PTH116  the launcher does without pathlib
    descriptor = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        owner = fcntl.ioctl(descriptor, _NS_GET_USERNS)
    except OSError as error:
        raise NotPrivateError(
            f"uevents are not sent: whose network namespace this is cannot be known: {error}"
        ) from None
    finally:
        os.close(descriptor)
    belongs_to = {os.fstat(owner).st_ino}
    try:
        parent = fcntl.ioctl(owner, _NS_GET_PARENT)
        belongs_to.add(os.fstat(parent).st_ino)
        os.close(parent)
    except PermissionError:
        pass  # it is this process's own, and the parent is out of its reach
    finally:
        os.close(owner)
    if own not in belongs_to or own == linux.FIRST_USER_NAMESPACE:
        raise NotPrivateError(
            "uevents are not sent in a network namespace that does not belong to a private user namespace"
        )


def follow(control: str, outside: int | None, ready: Callable[[], None]) -> None:
    """Send the uevents of a machine whose control/ is there, until it is gone.

    `ready` is called when no event can be missed any more. With `outside` None it sends nothing and only waits.

    Raises NotPermittedError if another user mounted it: writes of other users must not wait for this one.
    """
    injector = None if outside is None else Injector(outside)
    try:
        descriptor = os.open(f"{control}/uevents_announce", os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError as error:
        raise NotPermittedError(error.filename) from None
    given: SimpleQueue[bytes | None] = SimpleQueue()
    sent = threading.Event()

    def read() -> None:
        """Read on once all events were sent, or a listener is slow: the next read tells the server so."""
        try:
            while data := os.read(descriptor, 1 << 16):
                sent.clear()
                given.put(data)
                sent.wait()
        except OSError:
            pass
        finally:
            given.put(None)

    threading.Thread(target=read, daemon=True).start()
    ready()
    rest = b""
    while (data := given.get()) is not None:
        *lines, rest = (rest + data).split(b"\n")
        if injector is not None:
            _send(injector, lines, sent)
        if given.empty():
            sent.set()


def wait_for_the_end(control: str, ready: Callable[[], None]) -> None:
    """Wait until the machine whose control/ is there is gone; resets do not count. `ready` is called at once."""
    ready()
    while True:
        try:
            with open(f"{control}/uevents_new", "rb", buffering=0) as events:  # noqa: PTH123  not buffered
                while events.read(1 << 16):
                    pass
        except OSError as error:
            if error.errno != errno.ENODEV:  # which says that the machine was reset
                return


def _send(injector: Injector, lines: list[bytes], on_their_own: threading.Event) -> None:
    for number, line in enumerate(lines):
        if number % EVENTS_AT_ONCE == 0:
            while injector.must_wait():
                # The writer itself may be the slow listener: it must not wait for itself.
                on_their_own.set()
                time.sleep(LOOK_SECONDS)
        # without the model's own SEQNUM
        injector.send(line.decode("utf-8", "surrogateescape").split(" ")[:-1])
