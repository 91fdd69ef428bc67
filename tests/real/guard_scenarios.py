"""What the guard is put through on a real kernel: each scenario runs, asserts what must hold, and returns its figures.

Used by the tests (each once, a selection) and by benchmarks/guard_matrix.py (all of them, repeated). Every limit comes
from peaks measured in the same scenario. The trainer is `boxed_loader` here; `guard_training` has LLaMA-Factory's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lf_autoworkers.journal import read_journal
from lf_autoworkers.units import MIB, format_size

from .boxes import Box, BoxedRun, run_boxed

REPOSITORY = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Row:
    """The figures of one scenario, as a table shows them: without the guard, and with it."""

    limit: str
    without: str
    guarded: str
    kernel_kills: int
    acts: str


@dataclass
class Loop:
    """A finished loop: how its process ended, and what it printed and wrote."""

    run: BoxedRun
    result: dict[str, Any]
    events: list[dict[str, Any]]

    def acts(self, *kinds: str) -> list[dict[str, Any]]:
        """Return the orders of these kinds that the guard gave."""
        return [event for event in self.events if event.get("act") in kinds]


def environ() -> dict[str, str]:
    """Return an environment in which the loop finds itself and torch does not fight over two cores."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def command(folder: Path, **options: Any) -> list[str]:
    """Write the options of a loop and return the command that runs it."""
    path = folder / f"options-{len(list(folder.glob('options-*')))}.json"
    path.write_text(json.dumps(options))
    return [sys.executable, "-W", "ignore", "-m", "tests.real.boxed_loader", str(path)]


def loop(
    folder: Path, limit_bytes: int | None, *, on_parent: bool = False, timeout_s: float = 200, **options: Any
) -> Loop:
    """Run one loop to its end in a box of its own."""
    journal = folder / f"journal-{len(list(folder.glob('journal-*')))}"
    journal.touch()
    run = run_boxed(
        command(folder, journal=str(journal), **options),
        limit_bytes=limit_bytes,
        on_parent=on_parent,
        cwd=folder,
        environ=environ(),
        timeout_s=timeout_s,
    )
    return Loop(run, result_of(run.text), [dict(event) for event in read_journal(journal)])


def result_of(text: str) -> dict[str, Any]:
    """Return what a loop printed at its end; nothing if it did not get there."""
    last = text.strip().rpartition("\n")[2]
    return dict(json.loads(last)) if last.startswith("{") else {}


def ending(run: BoxedRun) -> str:
    """Return how a run ended, in words."""
    if run.timed_out:
        return "hangs"
    return "finishes" if run.code == 0 else f"dies (exit {run.code}, {run.oom_kills} killed)"


def acts_text(events: list[dict[str, Any]]) -> str:
    """Return what the guard did, counted."""
    counts: dict[str, int] = {}
    for event in events:
        kind = event.get("act")
        if kind is not None and kind != "start":
            counts[kind] = counts.get(kind, 0) + 1
    return ", ".join(f"{kind} {count}" for kind, count in counts.items()) or "none"


def eight_workers(folder: Path, on_parent: bool) -> Row:
    """Eight fixed workers die; eight guarded ones finish with the same batches."""
    one = loop(folder, None, workers=1, guard="stock", batches=20)
    eight = loop(folder, None, workers=8, guard="stock", batches=80)
    limit = one.run.peak_bytes + (eight.run.peak_bytes - one.run.peak_bytes) // 2
    stock = loop(folder, limit, on_parent=on_parent, workers=8, guard="stock", batches=80)
    assert stock.run.code != 0
    assert stock.run.oom_kills > 0
    guarded = loop(folder, limit, on_parent=on_parent, workers=8, batches=80)
    assert guarded.run.code == 0, guarded.run.text
    assert guarded.run.oom_kills == 0, guarded.run.text
    assert guarded.result["digest"] == eight.result["digest"]
    return _row(limit, stock, guarded)


def leak(folder: Path, rate_mb_s: int) -> Row:
    """Two workers that together leak this much a second, three times what the box has left."""
    # 40 samples a second are made at most: two workers, 50 ms each.
    leaky: dict[str, Any] = {"workers": 2, "leak_mib": rate_mb_s * 1e6 / MIB / 40}
    sound = loop(folder, None, workers=2, guard="stock", batches=20)
    spare = 400 * MIB
    limit = sound.run.peak_bytes + spare
    batches = max(200, int(3 * spare / (leaky["leak_mib"] * MIB)))
    stock = loop(folder, limit, guard="stock", batches=batches, **leaky)
    assert stock.run.code != 0
    guarded = loop(folder, limit, batches=batches, **leaky)
    assert guarded.run.code == 0, guarded.run.text
    assert guarded.result["steps"] == batches
    assert guarded.acts("recycle", "kill", "retire")
    if rate_mb_s <= 200:
        assert guarded.run.oom_kills == 0, guarded.run.text
    return _row(limit, stock, guarded)


def huge_samples(folder: Path) -> Row:
    """Every thirtieth sample takes three times the room that is left."""
    sound = loop(folder, None, workers=6, batches=60, guard="stock", sample_s=0.2)
    limit = sound.run.peak_bytes + 100 * MIB
    huge: dict[str, Any] = {"workers": 6, "batches": 60, "huge_every": 30, "huge_mib": 300, "sample_s": 0.2}
    stock = loop(folder, limit, guard="stock", **huge)
    guarded = loop(folder, limit, **huge)
    assert guarded.run.code == 0, guarded.run.text
    assert guarded.run.oom_kills == 0, guarded.run.text
    assert guarded.result["digest"] == sound.result["digest"]
    return _row(limit, stock, guarded)


def burst(folder: Path) -> Row:
    """From the twentieth sample on each takes four times what those before did, as a run of long videos does."""
    sound = loop(folder, None, workers=4, batches=40, guard="stock", sample_s=0.2, sample_mib=160)
    limit = sound.run.peak_bytes - 150 * MIB
    rough: dict[str, Any] = {"workers": 4, "batches": 60, "burst_from": 20, "huge_mib": 160, "sample_mib": 40}
    stock = loop(folder, limit, guard="stock", sample_s=0.2, **rough)
    guarded = loop(folder, limit, sample_s=0.2, **rough)
    assert guarded.run.code == 0, guarded.run.text
    assert guarded.run.oom_kills == 0, guarded.run.text
    return _row(limit, stock, guarded)


def neighbour(folder: Path, regrow_s: float) -> Row:
    """A neighbour takes most of what is left and gives it back: workers go and come again.

    Args:
        folder: Where to work.
        regrow_s: Wait before workers come back; 0 for the guard's own 45 and 30 s.
    """
    with Box(None) as box, eater(box) as tell:
        running = Running(box, folder, "loop", workers=4, seconds=400, regrow_s=regrow_s, **STEADY)
        until(lambda: running.target() == 4, "the ramp")
        time.sleep(2)  # the workers' own growth ends
        limit = box.used_bytes() + 500 * MIB
        box.set_limit(limit)
        time.sleep(6)  # a limit set while a run lasts is looked for every 5 s
        tell(f"eat {500 * MIB - limit // 10} {200 * MIB}")
        until(lambda: running.target() < 4, "shedding")
        time.sleep(5)
        low = running.target()
        tell("free")
        freed = time.monotonic()
        until(lambda: running.target() > low, "coming back", 90)
        back_s = time.monotonic() - freed
        assert back_s <= 60
        running.process.terminate()
        running.process.wait(30)
        kills = box.oom_kills
        assert kills == 0
        acts = acts_text(running.acts())
    return Row(format_size(limit), "-", f"4 -> {low} -> {low + 1} workers, back {back_s:.0f} s after", kills, acts)


def page_cache(folder: Path) -> Row:
    """The box is filled to its limit with the cache of a file that was written and read twice."""
    with Box(None) as box, eater(box) as tell:
        running = Running(box, folder, "loop", workers=3, seconds=25, **STEADY)
        until(lambda: running.target() == 3, "the ramp")
        time.sleep(2)
        limit = box.used_bytes() + 600 * MIB
        box.set_limit(limit)
        big = folder / "big"
        tell(f"cache {big} {900 * MIB}")
        share = box.charged_bytes() / limit
        assert share > 0.97
        running.finish(90)
        big.unlink()
        assert running.acts("throttle", "retire", "kill", "recycle", "give up") == []
        kills = box.oom_kills
        assert kills == 0
    return Row(format_size(limit), "-", f"{share:.1%} of the limit charged, nothing shed", kills, "none")


def four_ranks(folder: Path) -> Row:
    """Four processes with two workers each are short of half a worker's memory: one of them sheds one worker."""
    with Box(None) as box, eater(box) as tell:
        turn = str(folder / "turn")
        ranks = [
            Running(box, folder, f"rank{rank}", workers=2, ranks=4, turn=turn, seconds=300, **STEADY)
            for rank in range(4)
        ]
        until(lambda: all(rank.target() == 2 for rank in ranks), "the ramps", 90)
        time.sleep(2)
        limit = box.used_bytes() + 800 * MIB
        box.set_limit(limit)
        time.sleep(6)
        # So slowly that the time left is no reason to act: what is left is.
        tell(f"eat {limit - box.used_bytes() - int(0.12 * limit) + 30 * MIB} {15 * MIB}")
        until(lambda: any(rank.acts("retire", "kill") for rank in ranks), "shedding")
        time.sleep(6)
        shed = sum(len(rank.acts("retire", "kill")) for rank in ranks)
        for rank in ranks:
            rank.process.terminate()
        for rank in ranks:
            rank.process.wait(30)
        kills = box.oom_kills
        assert shed == 1, acts_text([event for rank in ranks for event in rank.acts()])
        assert kills == 0
        acts = acts_text([event for rank in ranks for event in rank.acts()])
    return Row(format_size(limit), "-", f"{shed} worker shed by 4 ranks", kills, acts)


def small_shm(folder: Path) -> Row:
    """64 MB of /dev/shm, Docker's default, and batches of 20 MB: PyTorch's workers hang for ever."""
    small = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"', "sh"]
    options: dict[str, Any] = {"workers": 4, "batches": 30, "batch_mib": 20}
    common: dict[str, Any] = {"limit_bytes": None, "cwd": folder, "environ": environ(), "prefix": small}
    stock = run_boxed(command(folder, guard="stock", **options), timeout_s=25, **common)
    assert stock.timed_out or stock.code != 0
    guarded = run_boxed(command(folder, **options), timeout_s=60, **common)
    assert guarded.code == 0, guarded.text
    assert result_of(guarded.text)["steps"] == 30
    return Row("64 MB /dev/shm", ending(stock), ending(guarded), guarded.oom_kills, "none")


STEADY: dict[str, Any] = {"batches": 100_000, "sample_mib": 10, "hold_mib": 60, "sample_s": 0.1, "step_s": 0.05}


class Running:
    """A loop that still runs in a box the scenario has its hands on."""

    def __init__(self, box: Box, folder: Path, name: str, **options: Any) -> None:
        self.journal = folder / f"{name}.journal"
        self.output = folder / f"{name}.log"
        self.process = box.popen(
            command(folder, journal=str(self.journal), **options), cwd=folder, environ=environ(), output=self.output
        )

    def acts(self, *kinds: str) -> list[dict[str, Any]]:
        """Return the orders of these kinds so far; of all kinds if none is named."""
        if not self.journal.exists():
            return []
        events = [dict(event) for event in read_journal(self.journal) if "act" in event]
        return [event for event in events if not kinds or event["act"] in kinds]

    def target(self) -> int:
        """Return the workers wanted now."""
        changes = self.acts("start", "retire", "kill")
        return int(changes[-1]["to"]) if changes else 1

    def finish(self, timeout_s: float = 60) -> dict[str, Any]:
        """Wait for the end and return the result."""
        code = self.process.wait(timeout_s)
        text = self.output.read_text()
        assert code == 0, text
        return result_of(text)


@contextmanager
def eater(box: Box) -> Iterator[Callable[[str], None]]:
    """A neighbour in the box; called with a command, it returns when that is done."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.real.eater"],
        env=environ(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=box.enter,
    )
    commands, answers = process.stdin, process.stdout
    assert commands is not None
    assert answers is not None

    def tell(words: str) -> None:
        commands.write(words + "\n")
        commands.flush()
        assert answers.readline().startswith("done"), "the neighbour was killed"

    try:
        yield tell
    finally:
        commands.close()
        answers.close()
        process.kill()
        process.wait()


def until(condition: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    """Wait for a condition; fail when it does not come."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {timeout_s} s"
        time.sleep(0.05)


def _row(limit: int, stock: Loop, guarded: Loop) -> Row:
    text = f"{ending(guarded.run)}, all {guarded.result['steps']} batches"
    return Row(format_size(limit), ending(stock.run), text, guarded.run.oom_kills, acts_text(guarded.events))
