"""Write patches/manifest.json from the patches and from released sources.

    python scripts/seal_patches.py DIR

DIR holds one unpacked wheel a release: DIR/0.9.5/llamafactory/... and so on, as made by
`pip download --no-deps llamafactory==0.9.5` and `python -m zipfile -e`. Needed after a patch was changed or added.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lf_autoworkers.patching.catalogue import Release, every_state, load_patches, state_key
from lf_autoworkers.patching.tree import text_digest
from lf_autoworkers.patching.udiff import check_context, splice

PATCHES = Path(__file__).resolve().parents[1] / "patches"


def seal(folder: Path, package: Path) -> dict[str, dict[str, str]]:
    """The checksums of every state of every file that the patches in ``folder`` touch."""
    release = Release(folder.name, load_patches(folder), {})
    sealed: dict[str, dict[str, str]] = {}
    for file in sorted({file for patch in release.patches.values() for file in patch.diffs}):
        raw = (package / file).read_bytes()
        for name in release.touching(file):
            check_context(raw, release.patches[name].diffs[file])
        sealed[file] = {
            state_key(names): text_digest(splice(raw, release.edits(file, names)))
            for names in every_state(release.touching(file))
        }
    return sealed


def main(sources: Path) -> None:
    """Seal every release there is a folder of patches for."""
    manifest = {
        folder.name: seal(folder, sources / folder.name / "llamafactory")
        for folder in sorted(PATCHES.iterdir())
        if folder.is_dir()
    }
    (PATCHES / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
