"""A neighbour in the box: eats memory or fills the page cache, as told on standard input.

``eat BYTES`` holds that much, ``free`` lets go, ``cache FILE BYTES`` writes a file and reads it twice (its pages end up
in both LRU lists); each is answered with ``done``.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Obey until standard input ends."""
    held = bytearray()
    page = os.sysconf("SC_PAGE_SIZE")
    for line in sys.stdin:
        command, *words = line.split()
        if command == "eat":
            held = bytearray(int(words[0]))
            held[::page] = b"\1" * len(held[::page])
        elif command == "free":
            held = bytearray()
        elif command == "cache":
            chunk = b"\0" * (1 << 20)
            with open(words[0], "w+b") as file:  # noqa: PTH123
                for _ in range(int(words[1]) >> 20):
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
                for _ in range(2):
                    file.seek(0)
                    while file.read(1 << 20):
                        pass
        print("done", len(held), flush=True)


if __name__ == "__main__":
    main()
