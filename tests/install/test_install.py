"""Every way to install the package arms the hook, and uninstalling leaves nothing.

Scratch environments see this environment's packages through links, all but our own, so that torch is the real one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.install

REPOSITORY = Path(__file__).parents[2]
ACTIVE = (
    "import torch, transformers.hf_argparser as parser\n"
    "print('active' if hasattr(parser.HfArgumentParser.parse_dict, '__lf_autoworkers__') else 'inactive')"
)
OURS = ("lf_autoworkers", "lf-autoworkers", "_editable_impl_lf", "__editable__")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as pip builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    run(Path(sys.executable), "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, REPOSITORY)
    (path,) = folder.glob("*.whl")
    return path


class Scratch:
    """A virtual environment without the plugin."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        run(Path(sys.executable), "-m", "venv", "--without-pip", folder)
        self.python = folder / "bin" / "python"
        links = folder / "links"
        links.mkdir()
        for entry in Path(sysconfig.get_path("purelib")).iterdir():
            if not entry.name.startswith(OURS):
                (links / entry.name).symlink_to(entry)
        (self.site / "links.pth").write_text(f"{links}\n")

    @property
    def site(self) -> Path:
        """Where it keeps its own packages."""
        return next((self.folder / "lib").glob("python*")) / "site-packages"

    def pip(self, *words: str | Path) -> None:
        """Run pip for this environment, from the files at hand alone."""
        if "install" in words:
            words = (*words, "--no-index")
        run(self.python, "-m", "pip", "-q", "--disable-pip-version-check", *words)

    def left(self) -> list[str]:
        """Return everything of ours that is in it."""
        return sorted(
            path.name for path in [*self.site.iterdir(), *(self.folder / "bin").iterdir()] if path.name.startswith(OURS)
        )


def run(python: Path, *words: str | Path, **environ: str) -> str:
    """Run a Python command and return what it printed."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PIP_USER")}
    done = subprocess.run(
        [str(word) for word in (python, *words)], capture_output=True, text=True, check=False, env={**clean, **environ}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def by_pip(scratch: Scratch, wheel: Path) -> None:
    scratch.pip("install", "--no-deps", wheel)


def from_source(scratch: Scratch, wheel: Path) -> None:
    scratch.pip("install", "--no-deps", "--no-build-isolation", REPOSITORY)


def editable(scratch: Scratch, wheel: Path) -> None:
    scratch.pip("install", "--no-deps", "--no-build-isolation", "-e", REPOSITORY)


def by_uv(scratch: Scratch, wheel: Path) -> None:
    run(Path(sys.executable), "-m", "uv", "pip", "install", "-q", "--offline", "--no-deps", "-p", scratch.python, wheel)


@pytest.mark.parametrize("install", [by_pip, from_source, editable, by_uv])
def test_installing_arms_the_hook_and_uninstalling_leaves_nothing(
    tmp_path: Path, wheel: Path, install: Callable[[Scratch, Path], None]
) -> None:
    scratch = Scratch(tmp_path / "env")
    install(scratch, wheel)
    assert run(scratch.python, "-c", ACTIVE) == "active"
    assert run(scratch.folder / "bin" / "lf-autoworkers", "--version").startswith("lf-autoworkers ")
    none = "import sys; print([name for name in sys.modules if name.startswith('lf_autoworkers')])"
    assert run(scratch.python, "-c", none) == "[]"
    patches = "from lf_autoworkers.patching.catalogue import load_releases; print(len(load_releases()) > 0)"
    assert run(scratch.python, "-c", patches) == "True"
    scratch.pip("uninstall", "-y", "lf-autoworkers")
    assert scratch.left() == []
    assert run(scratch.python, "-c", ACTIVE) == "inactive"


def test_a_target_folder_on_pythonpath_is_enough(tmp_path: Path, wheel: Path) -> None:
    scratch = Scratch(tmp_path / "env")
    scratch.pip("install", "--no-deps", "--target", tmp_path / "target", wheel)
    assert run(scratch.python, "-c", ACTIVE, PYTHONPATH=str(tmp_path / "target")) == "active"
    assert run(scratch.python, "-c", ACTIVE) == "inactive"


def test_the_users_own_site_packages_are_enough(tmp_path: Path, wheel: Path) -> None:
    scratch = Scratch(tmp_path / "env")
    config = scratch.folder / "pyvenv.cfg"
    # Only an environment that sees its base interpreter's packages has a user site.
    config.write_text(config.read_text().replace("packages = false", "packages = true"))
    home = {"PYTHONUSERBASE": str(tmp_path / "user")}
    run(scratch.python, "-m", "pip", "-q", "install", "--user", "--no-deps", "--no-index", wheel, **home)
    assert run(scratch.python, "-c", ACTIVE, **home) == "active"
    assert run(scratch.python, "-s", "-c", ACTIVE, **home) == "inactive"


def test_the_wheel_holds_the_package_the_patches_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"lf_autoworkers"}
    assert "lf_autoworkers/py.typed" in names
    assert any(name.startswith("lf_autoworkers/_patches/") and name.endswith(".patch") for name in names)
    assert not [name for name in names if name.endswith(".pth")]


def test_run_arms_the_hook_where_pytorch_may_not(tmp_path: Path, wheel: Path) -> None:
    scratch = Scratch(tmp_path / "env")
    by_pip(scratch, wheel)
    off = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    assert run(scratch.python, "-c", ACTIVE, **off) == "inactive"
    command = scratch.folder / "bin" / "lf-autoworkers"
    assert run(command, "run", "--", scratch.python, "-c", ACTIVE, **off) == "active"
    grandchild = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ACTIVE!r}], check=True)"
    assert run(command, "run", "--", scratch.python, "-c", grandchild, **off) == "active"
