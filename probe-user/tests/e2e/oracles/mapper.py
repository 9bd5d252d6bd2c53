"""Maps a file as if it were a library, and waits."""

import mmap
import sys
import threading

with open(sys.argv[1], "rb") as file:
    mapping = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)
threading.Event().wait()
