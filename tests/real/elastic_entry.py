"""``llamafactory-cli`` with an elastic loader that is resized on a schedule; run by `test_elastic_train` as a script.

    python -m tests.real.elastic_entry COUNT "STEP=WORKERS ..." train config.yaml

COUNT is the ``dataloader_num_workers`` of the config. Each ``STEP=WORKERS`` takes effect once that many batches were
delivered.
"""

from __future__ import annotations

import sys
import threading
import time

from lf_autoworkers.adapter.dataloader import install_elastic


def main(count: int, schedule: str, words: list[str]) -> None:
    """Run LLaMA-Factory's own command line with ``words``."""
    handle = install_elastic(count, ceiling=8)
    steps = [tuple(int(number) for number in step.split("=")) for step in schedule.split()]

    def follow() -> None:
        for delivered, workers in steps:
            while handle.run.stats().delivered < delivered:
                time.sleep(0.002)
            handle.run.resize(workers)

    threading.Thread(target=follow, daemon=True).start()
    from llamafactory.cli import main as llamafactory

    sys.argv = ["llamafactory-cli", *words]
    llamafactory()
    stats = handle.run.stats()
    print(f"@@ delivered={stats.delivered} lost={stats.lost_workers} in_process={stats.in_process_batches}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
