"""``llamafactory-cli`` whose elastic loader is resized on a schedule; run by `test_elastic_train` as a script.

    python -m tests.real.elastic_entry "STEP=WORKERS ..." train config.yaml

Each ``STEP=WORKERS`` takes effect once that many batches were delivered. The rest is the unchanged program: the config
says ``auto``, and what that sets in motion is set in motion.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from lf_autoworkers.adapter import dataloader, run


def main(schedule: str, words: list[str]) -> None:
    """Run LLaMA-Factory's own command line with ``words``."""
    steps = [tuple(int(number) for number in step.split("=")) for step in schedule.split()]
    original, handles = dataloader.install_elastic, list[dataloader.Handle]()

    def install(count: int, ceiling: int, **named: Any) -> dataloader.Handle:
        handles.append(original(count, max(8, ceiling), **named))
        threading.Thread(target=follow, args=(handles[-1],), daemon=True).start()
        return handles[-1]

    def follow(handle: dataloader.Handle) -> None:
        for delivered, workers in steps:
            while handle.run.stats().delivered < delivered:
                time.sleep(0.002)
            handle.run.resize(workers)

    setattr(run, "install_elastic", install)  # noqa: B010  (where `begin` looks it up)
    from llamafactory.cli import main as llamafactory

    sys.argv = ["llamafactory-cli", *words]
    llamafactory()
    stats = handles[-1].run.stats()
    print(f"@@ delivered={stats.delivered} lost={stats.lost_workers} in_process={stats.in_process_batches}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
