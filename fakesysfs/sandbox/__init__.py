"""`fakesysfs run`: a command and its children see the fake at /sys, /dev and /proc.

Processes
    launcher   (`launcher.py`) The process that the user started. It prepares the namespaces, passes signals on, and
               ends or stops as the command does.
    init       (`init.py`) The launcher's child, process 1 of the PID namespace. It mounts the view (`view.py`), starts
               the server and the command, and reaps orphans. The kernel kills the whole namespace when it ends.
    server     (`server.py`) A child of the init: the FUSE server of `fakesysfs mount`.
    command    A child of the init, in the process group and session of the launcher: so Ctrl-C and Ctrl-Z work as
               without a run. Under `fakesysfs explore` it is the controller (explore/controller.py), which starts the
               programs, each in a session of its own.
    udevd      (`udev.py`) With --udev: a child of the init, started before the command.
    joined     (`attach.py`) With --at PID: a command that entered the namespaces of the init of another run, and that
               is killed with them. Its launcher is outside.
    follower   (`netlink.py`) With --mount and --at: a child of the init. It sends the uevents, as the server is in
               another network namespace. Without these options the server sends them (`uevent_sender.py`).

Namespaces (`namespaces.py`)
    user       Two, nested. The outer one lets an ordinary user make the others; the server and the follower are in
               it. The inner one is the command's: mounts that come from the outer one are locked there, and the
               command has no rights over processes of the outer one. Root keeps all users in both; an ordinary user
               becomes their root.
    mount      Three. The server is in the first: there /sys is the host's, so that a library call of the server that
               reads /sys (glibc counts processors there) does not wait for the server itself. The view covers /sys
               and /dev in the second. The third is the copy of the second that belongs to the command's user
               namespace.
    PID        Kills everything that is left when the init ends.
    network    Uevents are sent in it. The host's uevents do not arrive there, because it belongs to a user
               namespace. --host-network does without.

How a run ends
    When one of the four processes dies, the others follow. The launcher's death kills the init (PR_SET_PDEATHSIG), the
    init's death kills the rest (PID namespace), and the init ends when the server or the command ends. The mounts go
    with the last process of the mount namespace; no directory is made outside of it. Without a PID namespace the
    launcher and the init are subreapers and kill their descendants. With --mount a guardian process between launcher
    and server takes the mount away.

Rejected
    - A directory in /tmp as mountpoint: it would have to be removed after a kill -9.
    - The command as process 1: it would not get signals that it has no handler for.
    - A process group for the command: it would stop at SIGTTOU, and Ctrl-C in a script would not reach it.
    - A pseudo-terminal: ttyname, window sizes and job control would no longer be those of the user's terminal.
"""
