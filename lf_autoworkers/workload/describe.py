"""The workload of a training config: one call that reads arguments, datasets, media headers and model folder.

Covers putting the parts together and saying where each fact came from. It decides nothing; the plan does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .arguments import RunArguments, read_arguments
from .batches import batches_of_run, largest_batch
from .cost import RowCost
from .dataset import DatasetSource, find_datasets, tokenized_dataset
from .estimate import filler_image, packed, preprocessing_row_bytes, row_costs, tensor_count
from .facts import Modality, Workload
from .model import model_folder, weight_files
from .processor import Geometry, read_geometry
from .survey import Survey, survey
from .templates import TemplateMedia, read_templates

_DEAREST = (Modality.VIDEO, Modality.IMAGE, Modality.AUDIO)


def describe_workload(arguments: Mapping[str, Any], *, template_source: Path | None) -> Workload:
    """Return what one batch of the run that ``arguments`` describes is made of.

    Never raises for what a config may hold: a sentence in ``notes`` says what was assumed instead.

    Args:
        arguments: The config as written: YAML values or command line strings; missing keys mean LLaMA-Factory's
            defaults.
        template_source: LLaMA-Factory's ``data/template.py``; ``None`` where it is not installed.
    """
    run = read_arguments(arguments)
    notes = list(run.notes)
    template = _template(run, template_source, notes)
    model = model_folder(run.model)
    geometry = read_geometry(template.plugin if template is not None else "", model)
    sources, eval_sources, tokenized = _sources(run, notes)
    media_dir = Path(run.media_dir or (run.dataset_dir if isinstance(run.dataset_dir, str) else "."))
    train = survey(sources, media_dir, run.max_samples)
    evaluation = survey(eval_sources, media_dir, run.max_samples)
    notes += dict.fromkeys((*train.notes, *evaluation.notes))
    able = frozenset(_DEAREST) if template is None else template.media
    everything = (*sources, *eval_sources)
    modality, modality_source = _modality(run, template, everything, (train, evaluation), notes)

    def units(found: Survey) -> list[RowCost]:
        rows = row_costs(found, run, geometry, able if template is not None else frozenset())
        return packed(rows, run) if run.packing and not tokenized else rows

    rows = units(train)
    total, exact = _train_rows(run, train, len(rows), packing=run.packing and not tokenized, notes=notes)
    batches = batches_of_run(run, total, run.train_batch_size)
    batch = largest_batch(rows, run.train_batch_size, batches, run, geometry)
    filler = filler_image(run, geometry) if modality is Modality.TEXT and Modality.IMAGE in able else 0
    eval_bytes = None
    if run.evaluates:
        eval_rows = units(evaluation) if eval_sources else rows
        eval_bytes = largest_batch(eval_rows, run.eval_batch_size, None, run, geometry).batch_bytes
    weights = weight_files(model)
    return Workload(
        stage=run.stage,
        modality=modality,
        modality_source=modality_source,
        streaming=run.streaming,
        train_rows=total,
        train_rows_exact=exact,
        rows_source=_rows_source(sources, total, exact),
        train_batch_size=run.train_batch_size,
        eval_batch_size=run.eval_batch_size,
        evaluates=run.evaluates,
        batch_bytes=batch.batch_bytes + filler,
        batch_source=_batch_source(train, geometry, modality),
        decode_bytes=batch.decode_bytes,
        batch_cpu_s=batch.cpu_s,
        files_per_batch=tensor_count(run, everything, able, geometry),
        preprocessing_row_bytes=preprocessing_row_bytes(train, run, geometry, able),
        checkpoint_bytes=sum(weights) if weights else None,
        largest_shard_bytes=max(weights) if weights else None,
        notes=tuple(dict.fromkeys(notes)),
        eval_batch_bytes=eval_bytes,
    )


def _template(run: RunArguments, source: Path | None, notes: list[str]) -> TemplateMedia | None:
    """Return what the run's template can do; ``None`` where that cannot be known."""
    if run.template is None:
        if run.stage != "pt":
            notes.append("No template is set; LLaMA-Factory then takes the tokenizer's own, which is text only.")
        return TemplateMedia("base", frozenset())
    if source is None:
        notes.append(f"LLaMA-Factory is not installed here, so what template {run.template} can do is unknown.")
        return None
    try:
        templates = read_templates(source)
    except (OSError, ValueError, SyntaxError) as error:
        notes.append(f"{source} cannot be read ({error}), so what template {run.template} can do is unknown.")
        return None
    if run.template not in templates:
        notes.append(f"LLaMA-Factory has no template {run.template}.")
    return templates.get(run.template)


def _sources(run: RunArguments, notes: list[str]) -> tuple[tuple[DatasetSource, ...], tuple[DatasetSource, ...], bool]:
    """Return training sources, evaluation sources, and whether they are tokenised already."""
    if run.tokenized_path is not None:
        folder = Path(run.tokenized_path)
        train = tokenized_dataset(folder, "train")
        if train is not None:
            validation = tokenized_dataset(folder, "validation")
            return (train,), (validation,) if validation is not None else (), True
        if folder.is_dir():
            notes.append(f"tokenized_path: {folder} holds no tokenised training data.")
    if run.interleaved and len(run.datasets) > 1:
        notes.append("mix_strategy interleaves the datasets; rows are counted as if they were concatenated.")
    return find_datasets(run.datasets, run.dataset_dir), find_datasets(run.eval_datasets, run.dataset_dir), False


def _modality(
    run: RunArguments,
    template: TemplateMedia | None,
    sources: Sequence[DatasetSource],
    surveys: Sequence[Survey],
    notes: list[str],
) -> tuple[Modality, str]:
    if run.stage == "pt":
        return Modality.TEXT, "stage pt reads text alone"
    able = frozenset(_DEAREST) if template is None else template.media
    unseen = (
        frozenset.intersection(*(s.unseen for s in surveys if s.rows or s.unread))
        if any(s.rows or s.unread for s in surveys)
        else frozenset()
    )
    for kind in _DEAREST:
        named = next(((s.name, s.columns[kind]) for s in sources if s.columns and kind in s.columns), None)
        if named is None:
            continue
        if kind not in able:
            notes.append(
                f"Dataset {named[0]} has a column of {kind.value} files, but template {run.template} takes none."
            )
        elif kind in unseen:
            notes.append(f"No row has a file in column {named[1]} of dataset {named[0]}.")
        else:
            return kind, f"dataset {named[0]}, column {named[1]}"
    opaque = next((s.name for s in sources if s.columns is None), None)
    if opaque is not None or not sources:
        reason = f"columns of dataset {opaque} are unknown" if opaque is not None else "no dataset is named"
        for kind in _DEAREST if template is not None else ():
            if kind in able:
                return kind, f"{reason}; template {run.template} can take {kind.value}"
        return Modality.TEXT, f"{reason}; assumed"
    return Modality.TEXT, "no dataset has a column of images, videos or audio"


def _train_rows(
    run: RunArguments, train: Survey, units: int, *, packing: bool, notes: list[str]
) -> tuple[int | None, bool]:
    """Return rows of the training set after packing and the split for evaluation, and whether they were counted."""
    total, exact = train.total, train.exact and train.total is not None
    if total is None or (not train.rows and not total):
        return None, False
    if run.val_size > 0:
        held_out = run.val_size if run.val_size > 1 else math.ceil(run.val_size * total)
        total = max(0, total - int(held_out))
    if packing and train.rows:
        notes.append("Rows are packed into sequences; how many those are is estimated.")
        total, exact = max(1, total * units // len(train.rows)), False
    return total, exact


def _rows_source(sources: Sequence[DatasetSource], total: int | None, exact: bool) -> str:
    if not sources:
        return "no training dataset is named"
    names = ", ".join(source.name for source in sources)
    if total is None:
        return f"not known for {names}"
    return f"{'counted in' if exact else 'estimated from'} {names}"


def _batch_source(train: Survey, geometry: Geometry, modality: Modality) -> str:
    rule = {"patches": "patch rule", "crops": "generic rule (fixed crops)"}.get(geometry.rule, "generic rule")
    looked = f"{len(train.rows)} rows looked at" if train.rows else "no row could be looked at, largest size assumed"
    if train.rows and train.total is not None:
        looked += f" of {train.total}"
    if modality is Modality.TEXT:
        return f"{looked}, tokens guessed from text"
    sizes = [i.width * i.height for row in train.rows for i in row.images]
    sizes += [v.width * v.height for row in train.rows for v in row.videos]
    largest = max(sizes, default=0)
    return f"{looked}, {rule}" + (f", largest {largest / 1e6:.1f} MP" if largest else "")
