"""What a training run's batches are made of and what they cost: facts before anything is loaded or decoded."""

from .describe import describe_workload
from .facts import Modality, Workload
from .templates import find_template_source

__all__ = ["Modality", "Workload", "describe_workload", "find_template_source"]
