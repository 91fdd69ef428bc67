"""The command ``lf-autoworkers``: one verb a function; argparse and printing only.

Exit codes: 0 fine, 1 a finding or an error of ours, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lf_autoworkers import __version__
from lf_autoworkers.errors import AutoWorkersError
from lf_autoworkers.settings import VARIABLES


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    parser = _parser()
    options, rest = parser.parse_known_args(sys.argv[1:] if arguments is None else list(arguments))
    act: Callable[[argparse.Namespace], int] = options.act
    if act is _explain and all("=" in word and not word.startswith("-") for word in rest):
        options.overrides = [*options.overrides, *rest]  # argparse takes no key=value behind a flag by itself
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        code = act(options)
        sys.stdout.flush()  # a full disk or a closed pipe is met here, not at exit
        return code
    except AutoWorkersError as error:
        print(f"lf-autoworkers: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has seen enough (| head)
        return 0
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        print(f"lf-autoworkers: {named}{error.strerror or error}.", file=sys.stderr)
        return 1
    except Exception as error:
        if os.environ.get("LF_AUTOWORKERS_LOG", "").strip().lower() == "debug":
            raise
        where = "LF_AUTOWORKERS_LOG=debug shows where"
        print(f"lf-autoworkers: unexpected {type(error).__name__}: {error} ({where}).", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    width = max(len(variable.name) for variable in VARIABLES)
    table = "\n".join(f"  {v.name:<{width}}  {v.meaning} Takes {v.allowed}." for v in VARIABLES)
    parser = argparse.ArgumentParser(
        prog="lf-autoworkers",
        description="Worker counts for LLaMA-Factory: write `auto` in the config and train as always.",
        epilog=f"environment variables (each overrides one thing; an empty one counts as unset):\n{table}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lf-autoworkers {__version__}")
    verbs = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    explain = verbs.add_parser("explain", help="what auto would decide for a config, and why, without training")
    explain.add_argument("config", type=Path, metavar="CONFIG", help="the YAML or JSON you train with")
    explain.add_argument("overrides", nargs="*", metavar="key=value", help="as on llamafactory-cli's command line")
    explain.add_argument("--json", action="store_true", help="facts, decisions, warnings and YAML values as JSON")
    explain.add_argument("--cpus", metavar="N", help="as if the node had N usable CPUs")
    explain.add_argument("--memory", metavar="SIZE", help="as if the memory limit were SIZE (24GiB)")
    explain.add_argument("--shm", metavar="SIZE", help="as if /dev/shm had SIZE")
    explain.add_argument("--ranks", metavar="N", help="as if N training processes ran on the node")
    explain.add_argument("--machine", type=Path, metavar="DIR", help="a machine saved by doctor --save-machine DIR")
    explain.set_defaults(act=_explain)

    doctor = verbs.add_parser("doctor", help="whether the hook is active here, and what stands in its way")
    doctor.add_argument("--json", action="store_true", help="the findings as JSON")
    doctor.add_argument(
        "--save-machine", type=Path, metavar="DIR", help="write this machine's facts for explain --machine"
    )
    doctor.set_defaults(act=_doctor)

    run = verbs.add_parser("run", help="run a command with the hook armed, where PyTorch cannot arm it")
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD ...", help="the command and its arguments")
    run.set_defaults(act=_run)

    patch = verbs.add_parser("patch", help="source patches for LLaMA-Factory: look, put in, take out")
    acts = patch.add_subparsers(required=True, metavar="status|apply|revert|diff")
    for name, says in (
        ("status", "which patches are in"),
        ("apply", "put patches in"),
        ("revert", "take them out, byte for byte"),
        ("diff", "show what they change"),
    ):
        act = acts.add_parser(name, help=says)
        act.add_argument("--path", type=Path, metavar="DIR", help="a checkout, its src, or the package itself")
        if name != "status":
            act.add_argument("names", nargs="*", metavar="NAME", help="all of them if none is named")
        if name in ("apply", "revert"):
            act.add_argument("--dry-run", action="store_true", help="show the change, leave the files alone")
        act.set_defaults(act=_patch, verb=name)

    report = verbs.add_parser("report", help="what happened in a run, on one screen")
    report.add_argument(
        "output_dir", nargs="?", type=Path, default=Path(), metavar="OUTPUT_DIR", help="the run's output_dir"
    )
    report.set_defaults(act=_report)

    demo = verbs.add_parser("demo", help="train a tiny offline model with auto on this machine")
    demo.add_argument("--out", type=Path, metavar="DIR", help="where to build it (default: ./autoworkers-demo)")
    demo.set_defaults(act=_demo)
    return parser


def _explain(options: argparse.Namespace) -> int:
    from lf_autoworkers.adapter.explaining import explain

    what_if = {
        "CPUS": options.cpus,
        "MEMORY_LIMIT": options.memory,
        "SHM": options.shm,
        "LOCAL_WORLD_SIZE": options.ranks,
    }
    found = explain(
        options.config,
        options.overrides,
        os.environ,
        {k: v for k, v in what_if.items() if v is not None},
        options.machine,
    )
    print(json.dumps(found.as_json, indent=2) if options.json else found.text, end="\n" if options.json else "")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from lf_autoworkers.doctor import diagnose, save_this_machine

    if options.save_machine is not None:
        print(save_this_machine(options.save_machine))
        return 0
    findings = diagnose(os.environ)
    sick = any(finding.level == "fail" for finding in findings)
    if options.json:
        print(json.dumps({"ok": not sick, "findings": [finding.as_json() for finding in findings]}, indent=2))
    else:
        print("\n".join(finding.as_text() for finding in findings))
    return 1 if sick else 0


def _run(options: argparse.Namespace) -> int:
    from lf_autoworkers.runner import run

    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        print("usage: lf-autoworkers run -- CMD ...", file=sys.stderr)
        return 2
    return run(command)


def _patch(options: argparse.Namespace) -> int:
    from lf_autoworkers import patching

    if options.verb == "status":
        outcome = patching.status(options.path)
    elif options.verb == "diff":
        outcome = patching.diff(options.names, options.path)
    else:
        change = patching.apply if options.verb == "apply" else patching.revert
        outcome = change(options.names, options.path, dry_run=options.dry_run)
    print("\n".join(outcome.text))
    return outcome.exit_code


def _report(options: argparse.Namespace) -> int:
    from lf_autoworkers.report.summary import report

    print(report(options.output_dir))
    return 0


def _demo(options: argparse.Namespace) -> int:
    from lf_autoworkers.demo import run_demo

    return run_demo((options.out or Path("autoworkers-demo")).absolute())


if __name__ == "__main__":
    sys.exit(main())
