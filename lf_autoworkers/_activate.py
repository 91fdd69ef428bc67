"""The entry point that ``import torch`` calls. Placeholder until the hook lands: it does nothing."""


def activate() -> None:
    """Do nothing."""
