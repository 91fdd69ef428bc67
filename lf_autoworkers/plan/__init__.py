"""Pure decisions: facts in, a `Plan` with every number's caps and reason out."""

from lf_autoworkers.plan.decision import Cap, Decision, Plan, Request
from lf_autoworkers.plan.planner import make_plan

__all__ = ["Cap", "Decision", "Plan", "Request", "make_plan"]
