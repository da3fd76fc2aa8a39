"""FUSE: the tree of `kernfs`, mounted. Knows nothing of dax or memory.

What the host kernel caches
    All names and attributes, for ever: entries, attributes, and absent names too (a lookup that finds nothing answers
    "inode 0, good for 1e6 seconds"). Never contents: we open attributes with `direct_io`, so each read(2) reaches
    `show`, and st_size stays what the tree says. The host asks for the target of a symbolic link each time.

How we keep that true (`invalidate.py`)
    The tree reports each name that came or went. We answer a store only after the host forgot all of them, so a writer
    sees what its write did. The host forgets at once what a store changes before it goes to sleep. We invalidate only
    names that the host may hold: lookup and readdir set a bit per member of an indexed family. While clients look names
    up in a directory and a store waits, the host may hold none of that directory for a while.

What can deadlock
    To forget a name the host takes the lock of the directory. A process that looks a name up, lists or unlinks there
    holds that lock until we answer. So a worker thread invalidates names, never the loop's thread, and the loop goes on
    answering. One case is left: unlink(2) of an attribute holds the directory's lock while it waits for the attribute's
    own, which a write holds until we answer it. A store therefore stops waiting when the host forgot nothing for three
    seconds; its answer frees the lock, and the host forgets right after. The server must never touch its own mount.

What the host serialises (`operations.py`)
    Writers of one inode: a write holds the inode's lock until we answer it. When a store goes to sleep its attribute
    gets another inode number (`Tree.realias`). An open of the old number answers ESTALE, and the VFS looks the name up
    again.

What sleeps (`driver.py`)
    Kernel operations that ask to. One that may wait for ever watches its caller for signals: pyfuse3 does not pass
    INTERRUPT on.

What may never leave here (`handler.py`)
    An exception other than FUSEError (it ends the server), a read answer longer than asked (EIO for the client), an
    errno of 512 or more (the host drops the answer and the caller hangs).

What happens at a limit (`session.py`, `memory.py`)
    The server starts its threads and opens its files before it mounts. A request that finds no memory is answered
    ENOMEM; we then release a reserve, so that trio and pyfuse3 find some.

When it ends (`session.py`, `reach.py`)
    With SIGTERM, SIGINT or SIGHUP, with the mount, and when no other process has the mount in its namespace. It answers
    requests until its thread waits for no directory's lock any more. kill(1) -9 in such a moment leaves a process in
    state D, and the clients that hold the lock: `fakesysfs umount` aborts the connection, and all of them end.

pyfuse3 has one session per process: one mount per process.
"""
