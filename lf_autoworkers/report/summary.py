"""One run on one screen, from its journal.

Covers reading ``autoworkers_log.jsonl`` and saying what it means. Draws no plots, changes nothing; `steering.record`
documents the events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lf_autoworkers.errors import ConfigError
from lf_autoworkers.journal import JOURNAL_NAME, read_journal
from lf_autoworkers.units import format_size

_WIDTH = 60
_BLOCKS = " ▁▂▃▄▅▆▇█"
# Waiting less than this share of the time is noise; more than a tenth is worth a change.
_WAITS_LITTLE = 0.02
_WAITS_MUCH = 0.10

Event = Mapping[str, Any]


@dataclass(slots=True)
class Run:
    """The events of one run, sorted by what they are for.

    Attributes:
        events: All of them, in order.
        totals: The newest totals (a summary, or the last pulse of a run that was cut off).
    """

    events: list[Event]
    totals: Event = field(default_factory=dict)

    @property
    def began_s(self) -> float:
        """When it began, Unix seconds."""
        return float(self.events[0].get("time", 0.0))

    @property
    def ended_s(self) -> float:
        """When the last event was written."""
        return float(self.events[-1].get("time", 0.0))

    def of(self, *kinds: str) -> list[Event]:
        """Return the events of these kinds."""
        return [event for event in self.events if event["event"] in kinds]


def report(output_dir: Path) -> str:
    """Return what happened in the newest run below `output_dir`, as text of one screen.

    Raises:
        ConfigError: There is no journal, or nothing in it.
    """
    path = output_dir / JOURNAL_NAME
    try:
        runs = split_runs(list(read_journal(path)))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}): name the output_dir of a training whose worker count was auto."
        ) from error
    if not runs:
        raise ConfigError(f"{path} holds no events: the training that wrote it has not begun to load batches.")
    return "\n".join(_lines(runs[-1], path, len(runs)))


def split_runs(events: Sequence[Event]) -> list[Run]:
    """Return the runs of a journal: a resumed training appends to the same file."""
    runs: list[list[Event]] = []
    before = ""
    for event in events:
        kind = event["event"]
        starts = (kind == "decision" and before != "decision") or (
            kind == "guard" and before not in ("decision", "guard")
        )
        if starts or not runs:
            runs.append([])
        runs[-1].append(event)
        before = kind
    found = [Run(events) for events in runs]
    for run in found:
        totals = run.of("summary") or run.of("pulse")
        run.totals = totals[-1] if totals else {}
    return found


def _lines(run: Run, path: Path, runs: int) -> list[str]:
    steps = max(int(event.get("step") or 0) for event in run.events)
    earlier = f"; {runs - 1} earlier in the same journal" if runs > 1 else ""
    cut = "" if run.of("summary") else ", no end recorded: the run was cut off or still lasts"
    rows = [("run", f"{steps} steps in {_duration(run.ended_s - run.began_s)}{cut}{earlier}")]
    rows += [("decided", _decision(event)) for event in run.of("decision")]
    rows += _timeline(run)
    rows.append(("waiting", _waiting(run)))
    rows.append(("memory", _memory(run)))
    rows.append(("guard", _acts(run)))
    rows.append(("deaths", _deaths(run)))
    rows.append(("change", advice(run)))
    return [str(path), *(f"  {name:<9} {text}" for name, text in rows if text)]


def _decision(event: Event) -> str:
    because = event.get("because") or event.get("binding") or ""
    return f"{event.get('field')}: auto -> {event.get('value')}" + (f" <- {because}" if because else "")


def _timeline(run: Run) -> list[tuple[str, str]]:
    changes = [(float(event["time"]), int(event["to"])) for event in run.of("resize") if event.get("to") is not None]
    starts = run.of("guard")
    if not changes and not starts:
        return []
    first = (
        int(run.of("resize")[0]["from"]) if changes else int(run.totals.get("target") or starts[0].get("wanted") or 0)
    )
    span_s = max(1e-6, run.ended_s - run.began_s)
    most = max([first, *(count for _, count in changes), 1])

    def count_at(moment_s: float) -> int:
        return next((count for at_s, count in reversed(changes) if at_s <= moment_s), first)

    counts = [count_at(run.began_s + span_s * (column + 1) / _WIDTH) for column in range(_WIDTH)]
    strip = "".join(_BLOCKS[round(count / most * (len(_BLOCKS) - 1))] for count in counts)
    rows = [("workers", f"{strip}  {min(counts)} to {most}, at the end {counts[-1]}")]
    marks = [" "] * _WIDTH
    for event in run.of("resize", "act", "worker_lost"):
        mark = _mark(event)
        if mark:
            column = min(_WIDTH - 1, int((float(event["time"]) - run.began_s) / span_s * _WIDTH))
            marks[column] = mark
    if any(mark != " " for mark in marks):
        rows.append(("", "".join(marks) + "  r retired, k killed by the guard, x died, c recycled, ! gave up"))
    return rows


def _mark(event: Event) -> str:
    if event["event"] == "worker_lost":
        return "" if event.get("by_us") else "x"
    return {"retire": "r", "kill": "k", "recycle": "c", "give up": "!"}.get(str(event.get("act")), "")


def _share(run: Run) -> float | None:
    wait_s, wall_s = run.totals.get("wait_s"), run.totals.get("wall_s")
    return None if wait_s is None or not wall_s else min(1.0, wait_s / wall_s)


def _waiting(run: Run) -> str:
    share = _share(run)
    return "" if share is None else f"{share:.1%} of the time was spent waiting for data"


def _memory(run: Run) -> str:
    headroom, limit = run.totals.get("tightest_headroom_bytes"), run.totals.get("tightest_limit_bytes")
    if headroom is None or limit is None:
        return "no limit could be read" if run.of("guard") else ""
    return f"at the tightest {format_size(headroom)} left of {format_size(limit)} ({run.totals.get('tightest_source')})"


def _acts(run: Run) -> str:
    starts = run.of("guard")
    if not starts:
        return "off"
    counts: dict[str, int] = {}
    for event in run.of("resize", "act"):
        kind = str(event.get("act"))
        if kind != "start":
            counts[kind] = counts.get(kind, 0) + 1
    observed = " (observed only)" if starts[-1].get("mode") == "observe" else ""
    done = ", ".join(f"{kind} {count}x" for kind, count in counts.items())
    held = [str(event.get("text")) for event in run.of("note")]
    if held:
        done = "; ".join([*([done] if done else []), held[-1].removeprefix("memory guard: ")])
    return f"{done or 'had nothing to do'}{observed}"


def _deaths(run: Run) -> str:
    lost = [event for event in run.of("worker_lost") if not event.get("by_us")]
    if not lost:
        return ""
    by_kernel = sum(bool(event.get("oom_killed")) for event in lost)
    redone = sum(int(event.get("redone_batches") or 0) for event in run.of("worker_lost"))
    return f"{len(lost)} workers died ({by_kernel} by the kernel's OOM killer), {redone} batches done again, none lost"


def advice(run: Run) -> str:
    """Return the one change worth making."""
    acts = [event for event in run.of("resize", "act") if event.get("act") not in (None, "start", "restore")]
    gave_up = [event for event in acts if event.get("act") == "give up"]
    for event in (*gave_up, *acts):
        because = str(event.get("because"))
        if event in gave_up or "/dev/shm" in because:
            return because.removeprefix("memory guard: ").split("Next time: ")[-1]
    target, wanted = run.totals.get("target"), run.totals.get("wanted")
    if any(event.get("act") in ("retire", "kill") for event in acts) and target is not None:
        return f"start with {max(1, int(target))} workers: LF_AUTOWORKERS_DATALOADER_NUM_WORKERS={max(1, int(target))}"
    if any(event.get("act") == "recycle" for event in acts):
        return "none needed; workers grew and were replaced, which a newer decoder library may cure"
    share = _share(run)
    if share is None:
        return ""
    if share > _WAITS_MUCH and target is not None and wanted is not None and target < wanted:
        return f"more memory: {wanted} workers were wanted, {target} fitted"
    if share > _WAITS_MUCH:
        return "more CPUs, smaller images or a cheaper template: training waits for data with all workers it may have"
    if share < _WAITS_LITTLE:
        return "none: training does not wait for data, more workers would not help"
    return "none"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
