"""Source patches for LLaMA-Factory, put in and taken out of a source tree on request and never by installing.

    locate      which directory            catalogue   which patches there are, and every checksum
    tree        what the directory holds   udiff       edits of one text
    commands    what the user asks for     transaction, store   writing it so that nothing is ever half done
    outdated    what another version of this package left

Only carries texts: it imports nothing of LLaMA-Factory and runs where neither that nor torch is installed.
"""

from __future__ import annotations

from lf_autoworkers.patching.commands import LostPatches, Outcome, apply, diff, lost_patches, revert, status

__all__ = ["LostPatches", "Outcome", "apply", "diff", "lost_patches", "revert", "status"]
