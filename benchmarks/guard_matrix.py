"""Question: does the run that would have been OOM-killed finish, and at what price?

Method: every scenario of tests/real/guard_scenarios.py, and the real ``llamafactory-cli train`` on image data at three
limits between the measured peaks of one and eight workers, with the limit on the process's own cgroup and on its
parent's: fixed counts first (which die, which fit, how fast), then ``auto`` and a forced 8, each repeated. Needs root.

    python benchmarks/guard_matrix.py --out guard-matrix

prints the two tables of docs/guard.md and keeps every single run in guard-matrix/runs.csv. It takes about an hour and a
half on two cores that have nothing else to do.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from lf_autoworkers.units import format_size  # noqa: E402
from tests.lab import Lab  # noqa: E402
from tests.real import guard_scenarios as scenarios  # noqa: E402
from tests.real.boxes import unavailable  # noqa: E402
from tests.real.guard_training import Trained, Training, limits_between  # noqa: E402

SCENARIOS: dict[str, Callable[[Path], scenarios.Row]] = {
    "8 workers, limit on the own cgroup": lambda folder: scenarios.eight_workers(folder, on_parent=False),
    "8 workers, limit on the parent": lambda folder: scenarios.eight_workers(folder, on_parent=True),
    "leak, 50 MB/s": lambda folder: scenarios.leak(folder, 50),
    "leak, 100 MB/s": lambda folder: scenarios.leak(folder, 100),
    "leak, 200 MB/s": lambda folder: scenarios.leak(folder, 200),
    "leak, 500 MB/s": lambda folder: scenarios.leak(folder, 500),
    "huge samples": scenarios.huge_samples,
    "a burst of large samples": scenarios.burst,
    "a neighbour comes and goes": lambda folder: scenarios.neighbour(folder, regrow_s=0.0),
    "99 % page cache": scenarios.page_cache,
    "4 ranks short of half a worker": scenarios.four_ranks,
    "64 MB /dev/shm": scenarios.small_shm,
}
FIXED = (1, 2, 4, 8)
SHARES = (0.2, 0.4, 0.6)


class Runs:
    """The single runs, written as they come."""

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._file = (out / "runs.csv").open("a", newline="")
        self._writer = csv.writer(self._file)

    def add(self, *fields: object) -> None:
        """Keep one run."""
        self._writer.writerow([time.strftime("%Y-%m-%d %H:%M:%S"), *fields])
        self._file.flush()


def run_scenarios(names: list[str], repeat: int, runs: Runs) -> list[str]:
    """Return the rows of the first table."""
    rows = ["| Scenario | Limit | PyTorch's loader | Guarded | Kernel kills | Passed |", "|---|---|---|---|---|---|"]
    for name in names:
        passed, last, kills = 0, None, 0
        for _ in range(repeat):
            with tempfile.TemporaryDirectory() as folder:
                try:
                    last = SCENARIOS[name](Path(folder))
                    passed += 1
                    kills += last.kernel_kills
                    runs.add("scenario", name, "passed", last.limit, last.without, last.guarded, last.acts)
                except AssertionError as error:
                    runs.add("scenario", name, "FAILED", str(error)[-500:])
        if last is None:
            rows.append(f"| {name} | | | | | 0 of {repeat} |")
        else:
            rows.append(
                f"| {name} | {last.limit} | {last.without} | {last.guarded}; acts: {last.acts} | {kills} |"
                f" {passed} of {repeat} |"
            )
        print(rows[-1], flush=True)
    return rows


def run_training(repeat: int, places: list[str], runs: Runs) -> list[str]:
    """Return the rows of the second table."""
    rows = [
        "| Limit | On | Fixed 1, 2, 4, 8 | `auto` finished | forced 8 finished | Kernel kills | Speed / best fixed |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        built = Path(scratch) / "built"
        subprocess.run([sys.executable, "-m", "tests.lab", str(built)], cwd=ROOT, check=True, capture_output=True)
        lab_scratch = Path(scratch) / "runs"
        lab_scratch.mkdir()
        training = Training(Lab(built, lab_scratch))
        free = {count: training.train(count, None) for count in (1, 8)}
        reference = free[1].losses
        for count, trained in free.items():
            runs.add("training", "no limit", "-", count, trained.finished, trained.train_s, trained.run.peak_bytes)
        for limit in limits_between(free[1], free[8], *SHARES):
            for place in places:

                def train(
                    workers: int | str, forced: int | None = None, limit: int = limit, place: str = place
                ) -> Trained:
                    trained = training.train(workers, limit, forced=forced, on_parent=place == "parent")
                    name = f"forced {forced}" if forced else workers
                    runs.add("training", limit, place, name, trained.finished, trained.train_s, trained.run.oom_kills,
                             trained.acts, trained.losses == reference, trained.run.peak_bytes)  # fmt: skip
                    return trained

                fixed = {count: train(count) for count in FIXED}
                autos, forced = [], []
                for _ in range(repeat):
                    autos.append(train("auto"))
                    forced.append(train("auto", 8))
                rows.append(_training_row(limit, place, fixed, autos, forced, reference))
                print(rows[-1], flush=True)
    return rows


def _training_row(
    limit: int, place: str, fixed: dict[int, Trained], autos: list[Trained], forced: list[Trained], reference: list[str]
) -> str:
    def finished(runs: list[Trained]) -> str:
        same = all(run.losses == reference for run in runs if run.finished)
        return f"{sum(run.finished for run in runs)} of {len(runs)}{'' if same else ', losses DIFFER'}"

    ends = ", ".join(f"{run.train_s:.0f} s" if run.finished and run.train_s else "dies" for run in fixed.values())
    fitting = [run.train_s for run in fixed.values() if run.finished and run.train_s]

    def speed(runs: list[Trained]) -> str:
        own = [run.train_s for run in runs if run.finished and run.train_s]
        return f"{min(fitting) / statistics.median(own):.2f}" if fitting and own else "-"

    kills = sum(run.run.oom_kills for run in (*autos, *forced))
    return (
        f"| {format_size(limit)} | {place} | {ends} | {finished(autos)} | {finished(forced)} | {kills} |"
        f" {speed(autos)}, {speed(forced)} |"
    )


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=10, help="times every training is run (default 10)")
    parser.add_argument("--scenario-repeat", type=int, default=5, help="times every scenario is run (default 5)")
    parser.add_argument("--out", type=Path, default=Path("guard-matrix"))
    parser.add_argument("--scenario", action="append", choices=list(SCENARIOS), help="one of them, may be repeated")
    parser.add_argument("--place", action="append", choices=["own", "parent"], help="where the training's limit is")
    parser.add_argument("--no-training", action="store_true")
    parser.add_argument("--no-scenarios", action="store_true")
    asked = parser.parse_args()
    if (reason := unavailable()) is not None:
        print(reason)
        return 1
    print(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} CPUs, Linux {platform.release()}\n")
    runs = Runs(asked.out)
    tables = []
    if not asked.no_scenarios:
        tables.append(run_scenarios(asked.scenario or list(SCENARIOS), asked.scenario_repeat, runs))
    if not asked.no_training:
        tables.append(run_training(asked.repeat, asked.place or ["own", "parent"], runs))
    (asked.out / "tables.md").write_text("\n\n".join("\n".join(table) for table in tables) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
