"""Work on a thread, with a bound on its end."""

import threading
from collections.abc import Callable
from typing import Final

TIMEOUT_S: Final = 60.0


def in_thread(work: Callable[[], object]) -> Callable[[], BaseException | None]:
    """Start `work`; the function returned waits for its end and gives the exception, if any."""
    caught: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def join() -> BaseException | None:
        thread.join(TIMEOUT_S)
        assert not thread.is_alive(), "still waiting"
        return caught[0] if caught else None

    return join
