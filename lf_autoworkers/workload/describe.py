"""The workload of a training config: one call that reads arguments, datasets, media headers and model folder.

Covers putting the parts together and saying where each fact came from. It decides nothing; the plan does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lf_autoworkers.units import MIB

from .arguments import RunArguments, read_arguments
from .batches import batches_of_run, largest_batch
from .cost import BatchCost
from .dataset import DatasetSource, find_datasets, tokenized_dataset
from .estimate import as_modality, filler_image, packed, preprocessing_row_bytes, row_costs, streamed, tensor_count
from .facts import Modality, Workload
from .model import model_folder, offloads_optimizer, weight_files
from .processor import Geometry, read_geometry
from .survey import Survey, survey
from .templates import TemplateMedia, read_templates, tokenizes_by_header

_DEAREST = (Modality.VIDEO, Modality.IMAGE, Modality.AUDIO)


def describe_workload(
    arguments: Mapping[str, Any],
    *,
    template_source: Path | None,
    modality: Modality | None = None,
    said_by: str = "the caller",
) -> Workload:
    """Return what one batch of the run that ``arguments`` describes is made of.

    Never raises for what a config may hold: a sentence in ``notes`` says what was assumed instead.

    Args:
        arguments: The config as written: YAML values or command line strings; missing keys mean LLaMA-Factory's
            defaults.
        template_source: LLaMA-Factory's ``data/template.py``; ``None`` where it is not installed.
        modality: What to take the datasets for; ``None`` to look.
        said_by: Who said so.
    """
    try:
        return _describe(arguments, template_source, modality, said_by)
    except Exception as error:  # odd data must not cost a run its plan
        return _unknown(arguments, modality, f"{type(error).__name__}: {error}")


def _unknown(arguments: Mapping[str, Any], modality: Modality | None, why: str) -> Workload:
    """Return a cautious guess for data that cannot be looked at."""
    streaming = str(arguments.get("streaming", "")).strip().lower() in ("true", "1", "yes", "on")
    return Workload(
        stage=str(arguments.get("stage", "sft")),
        modality=modality or Modality.IMAGE,
        modality_source="the datasets could not be looked at; assumed",
        streaming=streaming,
        train_rows=None,
        train_rows_exact=False,
        rows_source="unknown",
        train_batch_size=1,
        eval_batch_size=1,
        evaluates=True,
        batch_bytes=256 * MIB,
        batch_source="assumed",
        decode_bytes=256 * MIB,
        batch_cpu_s=0.1,
        files_per_batch=8,
        preprocessing_row_bytes=256 * MIB,
        notes=(f"The datasets could not be looked at ({why}); cautious sizes are assumed.",),
    )


def _describe(
    arguments: Mapping[str, Any], template_source: Path | None, wanted: Modality | None, said_by: str
) -> Workload:
    run = read_arguments(arguments)
    notes = list(run.notes)
    template = _template(run, template_source, notes)
    model = model_folder(run.model)
    plugin = template.plugin if template is not None else ""
    geometry = read_geometry(plugin, model)
    sources, eval_sources, tokenized = _sources(run, notes)
    media_dir = Path(run.media_dir or (run.dataset_dir if isinstance(run.dataset_dir, str) else "."))
    train = survey(sources, media_dir, run.max_samples)
    evaluation = survey(eval_sources, media_dir, run.max_samples)
    surveys = (*train, *evaluation)
    for found in surveys:
        notes += found.notes
    able = frozenset(_DEAREST) if template is None else template.media
    assumable = frozenset() if template is None else template.media
    modality, modality_source = _modality(run, template, surveys, notes)
    if wanted is not None:
        modality, modality_source = wanted, f"{said_by}={wanted.value}"
    packing = run.packing and not tokenized

    def loader(found: Sequence[Survey], batch_size: int, batches: int | None) -> BatchCost:
        rows = row_costs(found, run, geometry, assumable)
        if wanted is not None:
            rows = as_modality(rows, found, wanted, run, geometry)
        units = packed(rows, run) if packing else rows
        cost = largest_batch(units.costs, units.weights, batch_size, batches, run, geometry)
        return streamed(cost, units, run, batch_size, total) if run.streaming and not tokenized else cost

    total, exact = _train_rows(run, train)
    if packing and total is not None:
        rows = row_costs(train, run, geometry, assumable)
        total, exact = max(1, total * len(packed(rows, run).costs) // len(rows.costs)), False
        notes.append("Rows are packed into sequences; how many those are is estimated.")
    batch = loader(train, run.train_batch_size, batches_of_run(run, total, run.train_batch_size))
    eval_bytes = None
    if run.evaluates:
        eval_bytes = loader(evaluation or train, run.eval_batch_size, None).batch_bytes
    filler = filler_image(run, geometry) if modality is Modality.TEXT and Modality.IMAGE in assumable else 0
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
        batch_source=_batch_source(train, total, geometry, modality),
        decode_bytes=batch.decode_bytes,
        batch_cpu_s=batch.cpu_s,
        files_per_batch=tensor_count(surveys, run, geometry, able),
        preprocessing_row_bytes=preprocessing_row_bytes(
            surveys, run, geometry, assumable, videos_by_header=tokenizes_by_header(template_source, plugin)
        ),
        checkpoint_bytes=sum(weights) if weights else None,
        largest_shard_bytes=max(weights) if weights else None,
        trains_all_weights=str(arguments.get("finetuning_type", "lora")).strip().lower() == "full",
        offloads_optimizer=offloads_optimizer(arguments.get("deepspeed")),
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
    run: RunArguments, template: TemplateMedia | None, surveys: Sequence[Survey], notes: list[str]
) -> tuple[Modality, str]:
    if run.stage == "pt":
        return Modality.TEXT, "stage pt reads text alone"
    able = frozenset(_DEAREST) if template is None else template.media
    best, because = Modality.TEXT, "no dataset has a column of images, videos or audio"
    for found in surveys:
        for kind, column in (found.source.columns or {}).items():
            if kind not in able:
                notes.append(f"Dataset {found.source.name} has {column}, which template {run.template} does not take.")
            elif kind not in (found.kinds or ()):
                notes.append(f"Dataset {found.source.name} has a column {column}, but no row fills it.")
            elif best is Modality.TEXT or _DEAREST.index(kind) < _DEAREST.index(best):
                best, because = kind, f"dataset {found.source.name}, column {column}"
    opaque = [found.source.name for found in surveys if found.source.columns is None]
    if opaque or not surveys:
        reason = f"columns of dataset {opaque[0]} are unknown" if opaque else "no dataset is named"
        dearest = next((kind for kind in _DEAREST if template is not None and kind in template.media), None)
        if dearest is not None and (best is Modality.TEXT or _DEAREST.index(dearest) < _DEAREST.index(best)):
            return dearest, f"{reason}; template {run.template} can take {dearest.value}"
        if best is Modality.TEXT:
            return best, f"{reason}; assumed"
    return best, because


def _train_rows(run: RunArguments, train: Sequence[Survey]) -> tuple[int | None, bool]:
    """Return the rows of the training set before packing, and whether they were counted."""
    totals = [found.total for found in train if found.total is not None]
    if not train or len(totals) < len(train):
        return None, False
    total = sum(totals)
    if run.val_size > 0:
        total -= int(run.val_size) if run.val_size > 1 else math.ceil(run.val_size * total)
    return max(0, total), all(found.exact for found in train)


def _rows_source(sources: Sequence[DatasetSource], total: int | None, exact: bool) -> str:
    if not sources:
        return "no training dataset is named"
    names = ", ".join(
        f"{source.name} ({source.files[0].name}{' and others' if source.files[1:] else ''})"
        if source.files
        else source.name
        for source in sources
    )
    if total is None:
        return f"not known for {names}"
    return f"{'counted in' if exact else 'estimated from'} {names}"


def _batch_source(train: Sequence[Survey], total: int | None, geometry: Geometry, modality: Modality) -> str:
    rows = [row for found in train for row in found.rows]
    if not rows:
        return "no row could be looked at; the largest LLaMA-Factory allows was assumed"
    looked = f"{len(rows)} rows looked at" + (f" of {total}" if total is not None else "")
    if modality is Modality.TEXT:
        return f"{looked}, tokens guessed from the text"
    sizes = [item.width * item.height for row in rows for item in row.images]
    sizes += [item.width * item.height for row in rows for item in row.videos]
    rule = "patch rule" if geometry.rule == "patches" else "generic rule"
    return f"{looked}, {rule}" + (f", largest {max(sizes) / 1e6:.1f} MP" if sizes else "")
