#!/usr/bin/env python3
"""What the plugin costs where it is not used, and what resolving costs where it is.

    python benchmarks/bench_startup.py [--runs 15] [--csv FILE]

Three questions, each answered by starting fresh interpreters in turn, A B A B ..., in one run:

    bare      python -c pass                                       has it any module of ours? (counted, not timed)
    torch     import torch with the entry point called / not       the entry point itself is timed inside as well
    resolve   LLaMA-Factory's argument parsing with auto / with the numbers that auto gives

Loading and calling the entry point is timed with importlib.metadata as torch does it, since ``-X importtime`` does not
see it. Prints medians and the ratio of medians; nothing is asserted.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ENTRY = """
import sys, time
import torch  # as in a real start, everything torch imports is loaded
for name in [name for name in sys.modules if name.startswith("lf_autoworkers")]:
    del sys.modules[name]
from importlib.metadata import entry_points
(point,) = [p for p in entry_points(group="torch.backends") if p.name == "lf_autoworkers"]
begin = time.perf_counter()
point.load()()
print(time.perf_counter() - begin)
"""
TORCH = "import time; begin = time.perf_counter(); import torch; print(time.perf_counter() - begin)"
PARSE = """
import sys, time
from llamafactory.hparams import get_train_args
values = dict(model_name_or_path="none", stage="sft", do_train=True, dataset="rows", dataset_dir=sys.argv[1],
              template="qwen2_vl", output_dir=sys.argv[1] + "/out", report_to="none")
values.update(eval(sys.argv[2]))
begin = time.perf_counter()
get_train_args(values)
print(time.perf_counter() - begin)
"""


def seconds(code: str, *arguments: str, **environ: str) -> float:
    """Run ``code`` in a fresh interpreter and return the seconds it prints last."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        # Bytecode is there, as after an installation; the first round writes it.
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "", **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


def dataset(folder: Path) -> None:
    """Write a dataset of 5,000 rows that name pictures, so that there is something to look at."""
    import json

    rows = [
        {
            "messages": [{"role": "user", "content": "<image>a"}, {"role": "assistant", "content": "b"}],
            "images": ["a.png"],
        }
    ] * 5000
    (folder / "rows.json").write_text(json.dumps(rows))
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    info = {"rows": {"file_name": "rows.json", "formatting": "sharegpt", "tags": tags}}
    info["rows"]["columns"] = {"messages": "messages", "images": "images"}
    (folder / "dataset_info.json").write_text(json.dumps(info))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    bare = subprocess.run(
        [sys.executable, "-c", "import sys; print(sum(m.startswith('lf_autoworkers') for m in sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        dataset(Path(place))
        auto = "{'dataloader_num_workers': 'auto', 'preprocessing_num_workers': 'auto'}"
        number = "{'dataloader_num_workers': 1, 'preprocessing_num_workers': 2}"
        for run in range(-1, options.runs):  # the first round warms the file cache and is not counted
            found = {
                "entry point called": seconds(ENTRY),
                "import torch, hook off": seconds(TORCH, TORCH_DEVICE_BACKEND_AUTOLOAD="0"),
                "import torch, hook on": seconds(TORCH),
                "parse numbers": seconds(PARSE, place, number),
                "parse auto": seconds(PARSE, place, auto),
            }
            if run >= 0:
                for name, value in found.items():
                    rows.setdefault(name, []).append(value)
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, {options.runs} runs each")
    print(f"modules of ours in a Python without torch: {bare.stdout.strip()}")
    for name, values in rows.items():
        middle = statistics.median(values)
        print(f"{name:<24} median {middle * 1e3:9.2f} ms   min {min(values) * 1e3:9.2f}   max {max(values) * 1e3:9.2f}")
    more = statistics.median(a - b for a, b in zip(rows["parse auto"], rows["parse numbers"], strict=True))
    print(f"resolving adds {more * 1e3:.0f} ms to the parsing of a training start (median of paired differences)")
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(rows)
            writer.writerows(zip(*rows.values(), strict=True))


if __name__ == "__main__":
    main()
