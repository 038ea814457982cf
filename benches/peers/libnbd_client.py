"""Random reads through python3-libnbd, for `benches.peers`.

    /usr/bin/python3 libnbd_client.py SOCKET EXPORT BLOCK DEPTH METHOD

Debian's own Python runs it, as its package of libnbd is for that one, so nothing of this project
is imported. It connects, prints `ready`, and answers one line for each line that it reads:

- `run REQUESTS`: does so many reads; the answer is the seconds that it took.
- `verify REQUESTS`: so many reads, of which each 64-bit word must be its own offset on the disk;
  the answer is `verified`.

METHOD is `sync`, a loop over `pread`, or `async`: DEPTH times `aio_pread`, followed by their
cookies. (With completion callbacks in their place the rate was the same.)

Two things are switched off, as libnbd's manual says that they cost time or are for tests: the
initialization of read buffers (`set_pread_initialize`), and the checks of requests before they are
sent (`set_strict_mode`).
"""

import random
import sys
import time
from array import array
from collections.abc import Callable
from typing import Any, Final

import nbd  # type: ignore[import-not-found]  # Debian's

OFFSETS: Final = 1 << 16
"""How many are drawn beforehand; a power of two."""

Check = Callable[[int, Any], None]
"""Is shown what was read at an offset."""


class Client:
    """A connection, and offsets to read at."""

    def __init__(self, socket: str, export: str, block: int, depth: int) -> None:
        self.handle = nbd.NBD()
        self.handle.set_pread_initialize(False)
        self.handle.set_strict_mode(0)
        self.handle.set_export_name(export)
        self.handle.connect_unix(socket)
        self.block, self.depth = block, depth
        block_count = self.handle.get_size() // block
        chance = random.Random(7)
        self.offsets = [chance.randrange(block_count) * block for _ in range(OFFSETS)]

    def close(self) -> None:
        self.handle.shutdown()

    def sync(self, total: int, check: Check | None) -> None:
        pread, block, offsets, mask = self.handle.pread, self.block, self.offsets, OFFSETS - 1
        if check is None:
            for n in range(total):
                pread(block, offsets[n & mask])
            return
        for n in range(total):
            check(offsets[n & mask], pread(block, offsets[n & mask]))

    def asynchronous(self, total: int, check: Check | None) -> None:
        offsets, mask = self.offsets, OFFSETS - 1
        aio_pread, poll = self.handle.aio_pread, self.handle.poll
        peek, retire = self.handle.aio_peek_command_completed, self.handle.aio_command_completed
        in_flight: dict[int, tuple[Any, int]] = {}
        submitted = completed = 0
        while submitted < min(self.depth, total):
            buffer, offset = nbd.Buffer(self.block), offsets[submitted & mask]
            in_flight[aio_pread(buffer, offset)] = buffer, offset
            submitted += 1
        while completed < total:
            poll(-1)
            while completed < total and (cookie := peek()) > 0:
                retire(cookie)
                buffer, offset = in_flight.pop(cookie)
                completed += 1
                if check is not None:
                    check(offset, buffer.to_buffer())
                if submitted < total:
                    offset = offsets[submitted & mask]
                    in_flight[aio_pread(buffer, offset)] = buffer, offset
                    submitted += 1


def check(offset: int, data: Any) -> None:
    """Raise ValueError unless each word of a block is its own offset."""
    words = array("Q", bytes(data))
    if words != array("Q", range(offset, offset + 8 * len(words), 8)):
        raise ValueError(f"the block at {offset} holds something else")


def main() -> None:
    socket, export, block, depth, method = sys.argv[1:]
    client = Client(socket, export, int(block), int(depth))
    run = {"sync": client.sync, "async": client.asynchronous}[method]
    print("ready", flush=True)
    for line in sys.stdin:
        command, requests = line.split()
        if command == "verify":
            run(int(requests), check)
            print("verified", flush=True)
            continue
        start = time.perf_counter()
        run(int(requests), None)
        print(time.perf_counter() - start, flush=True)
    client.close()


if __name__ == "__main__":
    main()
