"""A process that iterates an elastic loader and ends in one particular way; run by `test_exit` as a script.

python -m tests.unit.elastic.exit_program WAY CONTEXT PERSISTENT
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from torch.utils.data import DataLoader

from lf_autoworkers.elastic import elastic
from tests.unit.elastic.rows import Big


def main(way: str, context: str, persistent: bool) -> None:
    """Print this process's and its workers' pids, then end."""
    loader: DataLoader[Any] = DataLoader(
        Big(4000), batch_size=2, num_workers=2, multiprocessing_context=context, persistent_workers=persistent
    )
    elastic(loader)
    installation = elastic(loader)
    iterator = iter(loader)
    for _ in range(20):
        next(iterator)
    pids = [worker.pid for worker in installation.run.workers()]
    print(os.getpid(), *pids, flush=True)
    match way:
        case "end":
            return
        case "sys.exit":
            sys.exit(3)
        case "exception":
            raise ZeroDivisionError
        case "os._exit":
            os._exit(4)
        case "sigterm":
            os.kill(os.getpid(), signal.SIGTERM)
        case "sigkill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "interrupt":
            os.killpg(0, signal.SIGINT)
    time.sleep(60)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3] == "persistent")
