"""`fakesysfs run`: a command, and all it starts, sees the fake at /sys, /dev and /proc.

Who is who
    launcher   (`launcher.py`) The process that the user started. Prepares the namespaces, hands on signals, repeats on
               itself what became of the command, and is in nobody's way otherwise.
    init       (`init.py`) Its child, process 1 of the PID namespace. Puts the view together (`view.py`), starts the
               other two, reaps orphans. When it ends, the host's kernel ends everything in there.
    server     (`server.py`) A child of the init: the FUSE server of `fakesysfs mount`, in the same user and network
               namespace as the command.
    command    A child of the init, in the process group and session of the launcher: the terminal, Ctrl-C and Ctrl-Z
               treat it as if it ran alone.
    udevd      (`udev.py`) With --udev: a child of the init, started before the command.
    follower   (`uevents.py`) With --mount and --at, where the server is in another network namespace: a child of the
               init that sends the uevents (else the server does: `uevent_sender.py`), and ends with that server.

Why so many namespaces (`namespaces.py`)
    user       Two of them, one inside the other. The outer one lets an ordinary user make the others; the server and
               the follower are in it. The inner one is the command's, because mounts that come from an outer one are
               locked there, and because it has no rights over processes of the outer one. A network namespace that
               belongs to one is also the only place where the host's uevents do not arrive. Root keeps all users in
               both, an ordinary user is their root.
    mount      Three of them. The server is in the first one: whatever reads /sys behind its back (the C library counts
               processors there) would wait for itself. The view covers /sys and /dev in the second one. The third one
               is the copy of the second one that belongs to the command's user namespace; the init enters it, too.
    PID        What makes "nothing is left behind" true: the init has the launcher's death as its own.
    network    For uevents; --host-network does without.

What ends it
    Whoever of the four dies, the other three follow: the launcher takes the init along (PR_SET_PDEATHSIG), the init all
    the others (PID namespace), the server and the command are the init's children. Mounts go with the last process of
    the mount namespace, and no directory is made outside of it. Where there can be no PID namespace, the launcher and
    the init are subreapers and end what descends from them. With --mount a guardian stands between the launcher and
    the server, and takes the mount away.

Rejected: an intermediate directory in /tmp (somebody would have to remove it), the command as process 1 (signals
without a handler do not reach that one), a process group of its own for the command (it would stop at SIGTTOU, and a
script's Ctrl-C would not reach it), a pseudo-terminal (ttyname, window sizes and job control are no longer the user's).
"""
