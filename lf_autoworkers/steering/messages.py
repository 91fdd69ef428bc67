"""What the guard says, in one line each: what it saw (and the limit), what it did, what to set next time.

Covers words only; `docs/guard.md` explains each line to users. Names of settings are given by the caller: only the
adapter knows those of LLaMA-Factory.
"""

from __future__ import annotations

from dataclasses import dataclass

from lf_autoworkers.steering.danger import Danger, Shortage
from lf_autoworkers.steering.guard import Act, ActKind, Verdict
from lf_autoworkers.steering.readings import LoaderView, Reading
from lf_autoworkers.units import GIB, format_size


@dataclass(frozen=True, slots=True)
class Advice:
    """What a user can change.

    Attributes:
        workers: How to start with another count next time; ``{count}`` is put in.
        smaller_batches: Settings that make a batch smaller.
    """

    workers: str = "workers={count}"
    smaller_batches: str = "the batch size"


def start_line(reading: Reading, wanted: int, *, oom_group: bool, observe: bool) -> str:
    """Return the line said once, before the first worker starts."""
    tightest = reading.tightest
    if tightest is None:
        return "memory guard: no memory limit can be read here; the workers run unguarded"
    mode = "observes and changes nothing" if observe else f"starts up to {wanted} workers one by one"
    group = (
        "; memory.oom.group=1: one kill by the kernel would end the whole run, so every line lies 5 % of the limit"
        " further away"
        if oom_group
        else ""
    )
    return (
        f"memory guard: {mode}; {format_size(tightest.headroom_bytes or 0)} left of"
        f" {format_size(tightest.limit_bytes or 0)} ({tightest.source}){group}"
    )


def act_line(verdict: Verdict, view: LoaderView, reading: Reading, advice: Advice, *, observe: bool) -> str:
    """Return the line for an act other than HOLD and START in the first ramp."""
    act, danger = verdict.act, verdict.danger
    seen = _seen(danger)
    then = "would be" if observe else "now"
    step = f"step {view.steps}"
    match act.kind:
        case ActKind.GIVE_UP:
            way_out = _way_out(danger, view, advice)
            return f"memory guard: {seen} for a minute with {_workers(view.target)} left, {step}: {way_out}"
        case ActKind.THROTTLE:
            what = f"prefetch {then} {view.prefetch} -> {act.prefetch} batches per worker"
        case ActKind.RETIRE:
            when = "" if view.elastic else " from the next epoch on (this loader cannot change in the middle of one)"
            what = f"dataloader workers {then} {view.target} -> {act.target}{when}"
        case ActKind.KILL:
            count = f", dataloader workers {then} {view.target} -> {act.target}" if act.target != view.target else ""
            what = f"worker {act.pid} ({_held(reading, act.pid)}) {then} killed, its batches are done again{count}"
        case ActKind.RECYCLE:
            return (
                f"memory guard: worker {act.pid} has grown by {format_size(act.leak_bytes)} to"
                f" {_held(reading, act.pid)}, {step}: {then} replaced after its batch; nothing is lost (a decoder that"
                " leaks is the usual reason)"
            )
        case _:
            what = f"dataloader workers {then} {view.target} -> {act.target}, prefetch {act.prefetch}"
            return f"memory guard: {seen}, pressure is over, {step}: {what}"
    hint = _shm_flag(view) if danger.kind == "shm" else advice.workers.format(count=act.target)
    return f"memory guard: {seen}, {step}: {what}; order and content of batches stay the same. Next time: {hint}"


def killed_line(act: Act, view: LoaderView, kills: int, advice: Advice) -> str:
    """Return the line for workers shed because the kernel has killed processes of this cgroup."""
    return (
        f"memory guard: the kernel has killed {kills} of this cgroup's processes for lack of memory, step {view.steps}:"
        f" dataloader workers now {view.target} -> {act.target}; their batches are done again. Next time:"
        f" {advice.workers.format(count=act.target)}"
    )


def shortage_line(shortage: Shortage, view: LoaderView) -> str:
    """Return the line said once when the first ramp stops short of what was wanted."""
    there = _workers(min(view.target, len(view.live)))
    return (
        f"memory guard: {there} of {view.wanted}, step {view.steps}: one more may need"
        f" {format_size(shortage.need_bytes)} at peak, {format_size(shortage.headroom_bytes)} of"
        f" {format_size(shortage.limit_bytes)} are left ({shortage.source}) and"
        f" {format_size(shortage.line_bytes)} of it stay free; the rest start as soon as there is room"
    )


def cause(danger: Danger) -> str:
    """Return why, for the journal."""
    return _seen(danger)


def _seen(danger: Danger) -> str:
    what = "/dev/shm" if danger.kind == "shm" else "memory"
    text = f"{what} {format_size(danger.headroom_bytes)} left of {format_size(danger.limit_bytes)} ({danger.source}"
    text += f"; line {format_size(danger.line_bytes)})"
    if danger.exhaustion_s < 120:
        growth = format_size(int(danger.growth_bytes_per_s))
        text += f", gone in {danger.exhaustion_s:.1f} s at {growth}/s"
    return text


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


def _held(reading: Reading, pid: int | None) -> str:
    private = next((worker.private_bytes for worker in reading.workers if worker.pid == pid), None)
    return "size unknown" if private is None else format_size(private)


def _way_out(danger: Danger, view: LoaderView, advice: Advice) -> str:
    if danger.kind == "shm":
        return f"the guard can do no more; {_shm_flag(view)}"
    return (
        "the guard can do no more and leaves it at that: it is not the workers that take the memory; lower"
        f" {advice.smaller_batches}, or raise the limit ({danger.source})"
    )


def _shm_flag(view: LoaderView) -> str:
    """Return the docker flag for twice what all wanted workers may have in flight, in whole GiB."""
    in_flight = (view.batch_bytes or 0) * (view.wanted * (view.wanted_prefetch + 1) + 2)
    return f"docker run --shm-size={max(1, -(-2 * in_flight // GIB))}g (or --ipc=host)"
