"""Worker counts for LLaMA-Factory: write ``auto``, train."""

__version__ = "0.1.0"
