"""FUSE: the tree of `kernfs`, mounted. Knows nothing of dax or memory.

What the host kernel caches
    Everything about names and attributes, for ever: entries, attributes, and absent names too (a lookup that finds
    nothing answers "inode 0, good for 1e6 seconds"). Never contents: attributes are opened with `direct_io`, so each
    read(2) reaches `show` and st_size stays what the tree says. Symbolic links' targets are asked each time.

How that is kept true (`names.py`)
    The tree reports each name that came or went. A store's answer is sent only after the host was told to forget all
    of them, so whoever wrote sees what the write did. Changes that a store makes before it goes to sleep are told at
    once. Only names that the host may hold are told: a bit per member of an indexed family, set by lookup and
    readdir. In a directory where clients look names up while a store waits, the host may hold none for a while.

What can deadlock
    Telling the host to forget a name takes the lock of the directory, and whoever looks something up, lists or
    unlinks there holds that lock until we answered. So it is done in a worker thread, never in the loop's, and the
    loop goes on answering meanwhile. One case is left: unlink(2) of an attribute holds the directory's lock while it
    waits for the attribute's own, which a write holds until it is answered. A store therefore stops waiting for the
    host when nothing was forgotten for three seconds; its answer frees the lock, and the host forgets right
    after. The server must never touch its own mount.

What the host serialises (`operations.py`)
    Writers of one inode: a write holds its lock until it is answered. When a store goes to sleep its attribute gets
    another inode number (`Tree.realias`); an open of the old number answers ESTALE, upon which the VFS looks the name
    up again.

What sleeps (`driver.py`)
    Kernel operations that ask to. One that may wait for ever watches whether its caller has a signal: pyfuse3 hands
    on no INTERRUPT.

What may never leave here
    An exception other than FUSEError (it ends the server), a read answer longer than asked (EIO for the client), an
    errno of 512 or more (the host drops the answer and the caller hangs).

What happens at a limit (`server.py`, `memory.py`)
    The server starts its threads and opens its files before it mounts. A request that finds no memory is answered
    ENOMEM, and a reserve is released so that trio and pyfuse3 find some.

When it ends (`server.py`, `reach.py`)
    With SIGTERM, SIGINT or SIGHUP, with the mount, and when no other process has the mount in its namespace.

pyfuse3 has one session per process: one mount per process.
"""
