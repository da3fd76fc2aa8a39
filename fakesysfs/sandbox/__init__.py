"""`fakesysfs run`: a command, and all it starts, sees the fake at /sys, /dev and /proc.

Who is who
    the launcher (`launcher.py`)   the process that the user started. Prepares the namespaces, hands on signals, repeats on
                                   itself what became of the command, and is in nobody's way otherwise.
    the init (`init.py`)           its child, process 1 of the PID namespace. Puts the view together (`view.py`), starts
                                   the other two, reaps orphans. When it ends, the host's kernel ends everything in there.
    the server                     a child of the init: the FUSE server of `fakesysfs mount`, in the same user and network
                                   namespace as the command.
    the command                    a child of the init, in the process group and session of the launcher: the terminal, Ctrl-C
                                   and Ctrl-Z treat it as if it ran alone.

Why so many namespaces (`namespaces.py`)
    user      so that an ordinary user may make the others, and because a network namespace that belongs to one is the only
              place where the host's uevents do not arrive. Root keeps all his users in it; an ordinary user is root in it.
    mount     two of them, one inside the other: the view covers /sys and /dev in the inner one. The server stays in the outer
              one, since whatever reads /sys behind its back (the C library counts processors there) would wait for itself.
    PID       what makes "nothing is left behind" true: the init has the launcher's death as its own.
    network   for uevents; --host-network does without.

What ends it
    Whoever of the four dies, the other three follow: the launcher takes the init along (PR_SET_PDEATHSIG), the init all the
    others (PID namespace), the server and the command are the init's children. Mounts go with the last process of
    the mount namespace, and no directory is made outside of it.

Rejected: an intermediate directory in /tmp (somebody would have to remove it), the command as process 1 (signals
without a handler do not reach that one), a process group of its own for the command (it would stop at SIGTTOU, and a
script's Ctrl-C would not reach it), a pseudo-terminal (ttyname, window sizes and job control are no longer the user's).
"""
