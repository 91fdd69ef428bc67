"""A neighbour in the box: eats memory or fills the page cache, as told on standard input.

``eat BYTES RATE`` holds that much, taken at RATE bytes a second, ``free`` lets go, ``cache FILE BYTES`` writes a file
and reads it twice (its pages end up in both LRU lists); each is answered with ``done``.
"""

from __future__ import annotations

import os
import sys
import time


def main() -> None:
    """Obey until standard input ends."""
    blocks: list[bytearray] = []
    page = os.sysconf("SC_PAGE_SIZE")
    for line in sys.stdin:
        command, *words = line.split()
        if command == "eat":
            wanted, step = int(words[0]), int(words[1]) // 10
            blocks = []
            while wanted > 0:
                block = bytearray(min(step, wanted))
                block[::page] = b"\1" * len(block[::page])
                blocks.append(block)
                wanted -= len(block)
                time.sleep(0.1)
        elif command == "free":
            blocks = []
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
        print("done", len(blocks), flush=True)


if __name__ == "__main__":
    main()
