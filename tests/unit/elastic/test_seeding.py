"""Seeds per batch, and the consumer's own generators left as they were."""

from __future__ import annotations

import random

import numpy as np
import torch

from lf_autoworkers.elastic.seeding import batch_seed, kept_generators, seed_generators


def drawn() -> tuple[float, float, float]:
    return random.random(), float(torch.rand(())), float(np.random.random())


def test_a_seed_differs_in_every_part() -> None:
    seeds = {
        batch_seed(base, epoch, rank, index)
        for base in (0, 1)
        for epoch in (0, 1)
        for rank in (0, 1)
        for index in (0, 1)
    }
    assert len(seeds) == 16
    assert batch_seed(2**62, 3, 1, 9) == batch_seed(2**62, 3, 1, 9)


def test_the_three_generators_follow_the_seed_and_differ_from_each_other() -> None:
    seed_generators(5)
    first = drawn()
    seed_generators(5)
    assert drawn() == first
    seed_generators(6)
    assert drawn() != first
    assert len({round(number, 3) for number in first}) == 3


def test_the_generators_are_put_back_also_after_an_exception() -> None:
    random.seed(1), torch.manual_seed(1), np.random.seed(1)
    wanted = drawn()
    random.seed(1), torch.manual_seed(1), np.random.seed(1)
    try:
        with kept_generators():
            seed_generators(9)
            drawn()
            raise KeyError
    except KeyError:
        pass
    assert drawn() == wanted
