"""``lf-autoworkers doctor``: whether the hook is active here, and what stands in its way.

Covers ordered checks, each giving findings with a fix. The proof is a fresh interpreter of the very Python that
``llamafactory-cli`` runs in; nothing is inferred where it can be tried. `adapter.versions` holds what is checked there.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lf_autoworkers import __version__
from lf_autoworkers.adapter.versions import RUN_WITH, SEAMS, is_known
from lf_autoworkers.errors import AutoWorkersError
from lf_autoworkers.hardware import Machine, detect_hardware, save_machine
from lf_autoworkers.patching import lost_patches
from lf_autoworkers.settings import PREFIX, read_settings
from lf_autoworkers.units import GIB, format_count, format_size

PROBE = """
import importlib.metadata as metadata, json, sys
found = {"python": sys.executable, "versions": {}, "entry_points": []}
try:
    import lf_autoworkers
    found["plugin"] = lf_autoworkers.__file__
except Exception as error:
    print("\\n@@" + json.dumps({**found, "error": f"{type(error).__name__}: {error}"})); raise SystemExit
for name in %(names)r:
    try:
        found["versions"][name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
found["entry_points"] = [point.value for point in metadata.entry_points(group="torch.backends")]
try:
    import torch
    from transformers.hf_argparser import HfArgumentParser
    from lf_autoworkers import _activate
    from lf_autoworkers.adapter.parser_hook import MARK
    found["active"] = hasattr(HfArgumentParser.parse_dict, MARK)
    found["failure"] = repr(_activate.failure) if _activate.failure else None
    from lf_autoworkers.adapter.versions import missing_seams
    found["missing"] = [[s.module, s.attribute, s.needed_for] for s in missing_seams()]
except BaseException as error:
    found["error"] = f"{type(error).__name__}: {error}"
print("\\n@@" + json.dumps(found))
"""
"""Run in the Python under test; prints one JSON object behind ``@@``, whatever else the imports print."""

PROBE_TIMEOUT_S = 300
TOGETHER = 'in a clone of lf-autoworkers: pip install ".[llamafactory]"'
ENTRY_POINT = "lf_autoworkers._activate:activate"


@dataclass(frozen=True, slots=True)
class Finding:
    """One checked thing.

    Attributes:
        level: ``ok``, ``warn`` (auto works, something is worth knowing) or ``fail`` (auto will not work).
        what: The thing checked, one word.
        where: What was found, and where.
        fix: What to do; empty where nothing is to be done.
    """

    level: Literal["ok", "warn", "fail"]
    what: str
    where: str
    fix: str = ""

    def as_text(self) -> str:
        """Return the line(s) for a terminal."""
        line = f"{self.level:<5} {self.what:<13} {self.where}"
        return f"{line}\n{'':<20}fix: {self.fix}" if self.fix else line

    def as_json(self) -> dict[str, str]:
        """Return the finding as a JSON object."""
        return {"level": self.level, "what": self.what, "where": self.where, "fix": self.fix}


def diagnose(environ: Mapping[str, str]) -> list[Finding]:
    """Return every finding for a run started with ``environ``; takes as long as importing LLaMA-Factory."""
    findings = [Finding("ok", "plugin", f"lf-autoworkers {__version__} in {Path(__file__).parent}")]
    script, cli = _script("llamafactory-cli", environ)
    findings.append(cli)
    python = _interpreter(script) if script is not None else None
    if script is not None and python is None:
        findings.append(
            Finding(
                "warn",
                "cli",
                f"{script} does not tell which Python it runs (a shim?), so {sys.executable} was asked",
                "run doctor with the environment activated",
            )
        )
    findings.append(_torchrun(environ, python or Path(sys.executable)))
    findings += _probe(python or Path(sys.executable), environ)
    findings += _environment(environ)
    findings += _machine()
    findings += _patches()
    return findings


def _patches() -> list[Finding]:
    try:
        lost = lost_patches()
    except AutoWorkersError as error:
        return [Finding("warn", "patches", str(error), "lf-autoworkers patch status")]
    return [Finding("warn", "patches", lost.sentence(), "lf-autoworkers patch status")] if lost is not None else []


def _script(name: str, environ: Mapping[str, str]) -> tuple[Path | None, Finding]:
    """Return the console script found on PATH, and what is to be said of it."""
    here = Path(sys.executable).parent
    found = shutil.which(name, path=environ.get("PATH", ""))
    if found is not None:
        return Path(found), Finding("ok", name.removeprefix("llamafactory-"), found)
    if (here / name).exists():
        return here / name, Finding(
            "fail",
            name.removeprefix("llamafactory-"),
            f"{here / name} exists, but PATH does not lead to it",
            f"export PATH={shlex.quote(str(here))}:$PATH  (or activate that environment)",
        )
    return None, Finding(
        "fail",
        name.removeprefix("llamafactory-"),
        f"no {name} on PATH and none in {here}",
        f"install it beside the plugin, {TOGETHER}",
    )


def _interpreter(script: Path) -> Path | None:
    """Return the Python a console script runs in: its shebang's, also behind the ``/bin/sh`` trick for long paths."""
    try:
        lines = script.read_bytes()[:4096].decode(errors="replace").splitlines()
    except OSError:
        return None
    for line in lines[:3]:
        words = shlex.split(line.lstrip("#!' ").rstrip("' "), comments=False, posix=False) if line else []
        for word in words:
            candidate = Path(word.strip("'\""))
            if candidate.name.startswith("python") and candidate.is_absolute():
                return candidate
            if candidate.name.startswith("python") and words[0].endswith("env"):
                found = shutil.which(candidate.name)
                return Path(found) if found else None
    return None


def _same_environment(one: Path, other: Path) -> bool:
    return one.parent.absolute() == other.parent.absolute()  # not resolved: every venv's python links to one binary


def _torchrun(environ: Mapping[str, str], python: Path) -> Finding:
    script, finding = _script("torchrun", environ)
    if finding.level != "ok" or script is None:
        return finding
    other = _interpreter(script)
    if other is not None and not _same_environment(other, python):
        return Finding(
            "fail",
            "torchrun",
            f"{script} runs in {other}, llamafactory-cli in {python}",
            f"export PATH={shlex.quote(str(python.parent))}:$PATH, so that ranks start in the plugin's environment",
        )
    return finding


def _probe(python: Path, environ: Mapping[str, str]) -> list[Finding]:
    """Ask a fresh interpreter whether the hook is active in it."""
    try:
        done = subprocess.run(
            [str(python), "-c", PROBE % {"names": tuple(RUN_WITH)}],
            env=dict(environ),
            cwd="/",
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
        found: dict[str, Any] = json.loads(done.stdout.rpartition("@@")[2])
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        return [
            Finding("fail", "hook", f"{python} could not be asked ({type(error).__name__}: {error})", "try it by hand")
        ]
    if "plugin" not in found:
        return [
            Finding(
                "fail",
                "hook",
                f"lf-autoworkers is not installed in {python} ({found['error']})",
                f"in a clone of lf-autoworkers: {python} -m pip install .",
            )
        ]
    findings = [_hook(found, python, environ)]
    versions: dict[str, str] = found["versions"]
    for name in RUN_WITH:
        findings.append(_version(name, versions.get(name)))
    if "missing" in found:
        seams: list[list[str]] = found["missing"]
        findings.append(
            Finding("ok" if not seams else "warn", "seams", f"{len(SEAMS) - len(seams)} of {len(SEAMS)} found")
        )
        findings += [
            Finding("warn", "seams", f"{module} has no {attribute}: without it no {lost}", "use releases named above")
            for module, attribute, lost in seams
        ]
    return findings


def _hook(found: Mapping[str, Any], python: Path, environ: Mapping[str, str]) -> Finding:
    if found.get("active"):
        return Finding("ok", "hook", f"active in a fresh {python}")
    way_out = "start with: lf-autoworkers run -- llamafactory-cli train CONFIG"
    if found.get("error"):
        return Finding(
            "fail",
            "hook",
            f"{python} cannot import what it needs: {found['error']}",
            f"install releases that go together, {TOGETHER}",
        )
    if found.get("failure"):
        return Finding("fail", "hook", f"arming failed in {python}: {found['failure']}", way_out)
    autoload = environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD")
    if autoload is not None and autoload != "1":
        return Finding(
            "fail",
            "hook",
            f"TORCH_DEVICE_BACKEND_AUTOLOAD={autoload} keeps PyTorch from calling it",
            f"unset TORCH_DEVICE_BACKEND_AUTOLOAD, or {way_out}",
        )
    if ENTRY_POINT not in found["entry_points"]:
        return Finding(
            "fail",
            "hook",
            f"{found['plugin']} is importable in {python}, but its metadata is not installed there",
            f"in a clone of lf-autoworkers: {python} -m pip install .",
        )
    return Finding(
        "fail", "hook", f"not called by torch {found['versions'].get('torch')} (2.5 and later call it)", way_out
    )


def _version(name: str, version: str | None) -> Finding:
    low, high = RUN_WITH[name]
    if version is None:
        fix = TOGETHER
        return Finding("fail" if name != "accelerate" else "warn", name, "not installed", fix)
    if is_known(name, version):
        return Finding("ok", name, f"{version} (run with {low} to {high})")
    return Finding(
        "warn", name, f"{version} was not run (known: {low} to {high})", "watch the first log lines; numbers stay safe"
    )


def _environment(environ: Mapping[str, str]) -> list[Finding]:
    reading = read_settings(environ)
    findings = [Finding("fail", "environment", str(error), "correct it or unset it") for error in reading.errors]
    findings += [Finding("warn", "environment", sentence, "unset it") for sentence in reading.unknown]
    if reading.settings.disable:
        findings.append(
            Finding("warn", "environment", f"{PREFIX}DISABLE=1: auto means LLaMA-Factory's defaults", "unset it")
        )
    if not findings:
        names = sorted(name for name in environ if name.startswith(PREFIX))
        findings.append(Finding("ok", "environment", ", ".join(names) or f"no {PREFIX}* variable is set"))
    return findings


def _machine() -> list[Finding]:
    hardware = detect_hardware(Machine.live())
    limit = hardware.memory.limit
    memory = f"{format_size(limit[0])} memory ({limit[1]})" if limit else "memory unknown"
    cpus = f"{format_count(round(hardware.cpu.usable_cpus, 2))} usable CPUs ({hardware.cpu.tightest.name})"
    findings = [Finding("ok", "machine", f"{cpus}, {memory}, {len(hardware.gpus.gpus)} GPUs ({hardware.gpus.source})")]
    findings += [
        Finding("warn", "machine", problem, "auto goes on with cautious numbers; say them with the variables below")
        for problem in hardware.problems
    ]
    shm = hardware.shm
    if shm.total_bytes is not None and shm.total_bytes < GIB:
        findings.append(
            Finding(
                "warn",
                "shm",
                f"{shm.source} has only {format_size(shm.total_bytes)}",
                "start the container with --shm-size=8g or --ipc=host",
            )
        )
    if hardware.memory.oom_group:
        findings.append(
            Finding(
                "warn",
                "memory",
                "memory.oom.group=1: the kernel kills every process of this group at once",
                "the guard acts earlier here; Kubernetes: singleProcessOOMKill",
            )
        )
    return findings


def save_this_machine(folder: Path) -> str:
    """Write this machine's facts to ``folder`` and return one sentence that says so.

    Raises:
        AutoWorkersError: The folder holds something already, or cannot be written.
    """
    save_machine(folder, Machine.live())
    return (
        f"This machine is in {folder} (raw kernel files: look at proc/self/mountinfo before you publish them); "
        f"elsewhere: lf-autoworkers explain CONFIG --machine {os.fspath(folder)}"
    )
