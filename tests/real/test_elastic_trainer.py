"""The seam under the real Trainer and accelerate: which loaders become elastic, and that the model sees the same."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from lf_autoworkers.adapter.dataloader import Handle, install_elastic, uninstall_elastic
from lf_autoworkers.elastic.api import LOGGER_NAME
from lf_autoworkers.elastic.iterator import ElasticIter

transformers = pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.real,
    pytest.mark.filterwarnings("ignore"),  # transformers' and accelerate's own
]


class Rows(Dataset[dict[str, torch.Tensor]]):
    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return {"x": torch.full((4,), row / 100), "row": torch.tensor(row)}


class Collator:
    """An object, as LLaMA-Factory's are."""

    def __call__(self, rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


class Net(torch.nn.Module):
    """Keeps which rows it saw, and uses the global generator as dropout does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 1)
        self.seen: list[list[int]] = []

    def forward(self, x: torch.Tensor, row: torch.Tensor) -> dict[str, torch.Tensor]:
        self.seen.append(row.tolist())
        output = torch.nn.functional.dropout(self.linear(x), 0.2, self.training)
        return {"loss": (output**2).mean(), "logits": output}


class Steer(transformers.TrainerCallback):  # type: ignore[misc,name-defined]
    """Resizes and kills between steps."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.kills = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % 3 == 0:
            self.handle.run.resize((state.global_step // 3) % 4)
        if state.global_step % 4 == 0:
            for worker in self.handle.run.workers()[:1]:
                os.kill(worker.pid, signal.SIGKILL)
                self.kills += 1


@pytest.fixture(autouse=True)
def _left_alone() -> Iterator[None]:
    logger = logging.getLogger(LOGGER_NAME)
    before = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(before)
    uninstall_elastic()


def train(folder: Path, workers: int, *, steered: bool = False, resume: str | None = None, **changes: Any) -> Any:
    handle = install_elastic(workers, ceiling=4) if steered else None
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=3,
        per_device_eval_batch_size=2,
        num_train_epochs=2,
        logging_steps=1,
        save_steps=13,
        eval_strategy="steps",
        eval_steps=9,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        remove_unused_columns=False,
        dataloader_num_workers=workers,
        seed=5,
        **changes,
    )
    net = Net()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net.linear.reset_parameters()
    trainer = transformers.Trainer(
        net, arguments, data_collator=Collator(), train_dataset=Rows(58), eval_dataset=Rows(10)
    )
    if handle is not None:
        trainer.add_callback(Steer(handle))
    trainer.train(resume_from_checkpoint=resume)
    history = json.loads((folder / f"checkpoint-{trainer.state.global_step}" / "trainer_state.json").read_text())
    losses = [(entry["step"], entry.get("loss"), entry.get("eval_loss")) for entry in history["log_history"]]
    return net.seen, losses, handle


@pytest.mark.parametrize("workers", [0, 2])
def test_the_model_sees_the_rows_of_0_workers_and_loses_the_same(tmp_path: Path, workers: int) -> None:
    seen, losses, _ = train(tmp_path / "plain", 0)
    persistent: dict[str, Any] = (
        {"dataloader_persistent_workers": True, "dataloader_prefetch_factor": 3} if workers else {}
    )
    for number, changes in enumerate(({}, persistent)):
        again, again_losses, handle = train(tmp_path / f"steered{number}", workers, steered=True, **changes)
        assert again == seen
        assert again_losses == losses
        stats = handle.run.stats()
        assert stats.lost_workers >= 2
        # training: 20 batches an epoch; evaluation: 5 batches, after steps 9, 18, 27, 36 and 40
        assert stats.delivered == 2 * 20 + 5 * 5


def test_a_resumed_run_sees_the_rest_with_another_count(tmp_path: Path) -> None:
    seen, losses, _ = train(tmp_path / "plain", 0)
    folder = tmp_path / "plain"
    rest, rest_losses, handle = train(folder, 3, steered=True, resume=str(folder / "checkpoint-13"))
    training = [rows for rows in seen if len(rows) in (3, 1)]
    assert [rows for rows in rest if len(rows) in (3, 1)] == training[13:]
    assert rest_losses == losses
    assert handle.run.stats().delivered >= 27


def test_only_the_trainers_loaders_are_touched(tmp_path: Path) -> None:
    handle = install_elastic(0, ceiling=2)
    arguments = transformers.TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    collator = Collator()
    trainer = transformers.Trainer(Net(), arguments, data_collator=collator, train_dataset=Rows(4))
    of_the_trainer = trainer.get_train_dataloader()
    mine = DataLoader(Rows(4), batch_size=2)
    assert not isinstance(iter(mine), ElasticIter)
    assert isinstance(of_the_trainer.base_dataloader._get_iterator(), ElasticIter)
    same_collator_other_count = DataLoader(Rows(4), num_workers=1, collate_fn=of_the_trainer.collate_fn)
    assert not isinstance(iter(same_collator_other_count), ElasticIter)
    handle.uninstall()
    assert not isinstance(of_the_trainer.base_dataloader._get_iterator(), ElasticIter)
    again = install_elastic(0, ceiling=2)
    assert not isinstance(of_the_trainer.base_dataloader._get_iterator(), ElasticIter), "another run's loader"
    again.uninstall()


def test_a_dispatched_loader_is_elastic_too() -> None:
    accelerate = pytest.importorskip("accelerate")
    from accelerate.data_loader import DataLoaderDispatcher

    handle = install_elastic(2, ceiling=2)
    loader = DataLoader(Rows(12), batch_size=3, num_workers=2, collate_fn=Collator())
    handle.recognise(loader)
    accelerator = accelerate.Accelerator(
        cpu=True, dataloader_config=accelerate.DataLoaderConfiguration(dispatch_batches=True)
    )
    prepared = accelerator.prepare(loader)
    assert isinstance(prepared, DataLoaderDispatcher)
    rows = [int(row) for batch in prepared for row in batch["row"]]
    assert rows == list(range(12))
    assert handle.run.stats().delivered == 4
