"""Preprocessing with several processes: threads of forked children, and the dataset fingerprint.

Covers what LLaMA-Factory and `datasets` leave open. A child of ``Dataset.map`` inherits torch's intra-op threads:
several children fight over the cores, and a child deadlocks where the parent has run an OpenMP region. Any child
inherits the one CPU that ``OMP_PROC_BIND`` left the parent's main thread. And LLaMA-Factory pickles its data arguments
into the fingerprint, so another number of processes would preprocess everything anew.
"""

from __future__ import annotations

import contextlib
import copy
import os
import sys
from typing import Any

from lf_autoworkers._activate import when_imported

_one_thread = False
_cpus: tuple[int, ...] = ()
_registered = False
_fingerprint = False


def prepare_children(cpus: tuple[int, ...]) -> None:
    """From now on every forked child of this process runs one intra-op thread; the parent's count is untouched.

    Args:
        cpus: The CPUs a child may use where OpenMP took them from the parent's main thread; empty to leave it alone.
    """
    global _one_thread, _registered, _cpus
    _one_thread, _cpus = True, cpus
    if not _registered and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_limit_child)
        _registered = True


def _limit_child() -> None:
    if not _one_thread:
        return
    os.environ["OMP_NUM_THREADS"] = "1"  # for libraries the child loads itself
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
    if _cpus:
        with contextlib.suppress(OSError):  # the child then stays where it is
            os.sched_setaffinity(0, _cpus)


def keep_fingerprint() -> None:
    """Leave ``preprocessing_num_workers`` out of the fingerprint of datasets, as if it were not set."""
    global _fingerprint
    _fingerprint = True
    when_imported("datasets.utils._dill", _register)


def _register(dill_module: Any) -> None:
    """Teach `datasets`' own pickler (it makes fingerprints, nothing else) how to see LLaMA-Factory's data arguments."""
    from llamafactory.hparams.data_args import DataArguments

    if DataArguments in dill_module.Pickler.dispatch:
        return

    def save(pickler: Any, arguments: Any) -> None:
        seen = arguments
        if _fingerprint:
            seen = copy.copy(arguments)
            seen.preprocessing_num_workers = None
        pickler.save_reduce(*seen.__reduce_ex__(2), obj=arguments)

    dill_module.pklregister(DataArguments)(save)


def disarm() -> None:
    """Leave children and fingerprints alone again."""
    global _one_thread, _fingerprint
    _one_thread = _fingerprint = False
