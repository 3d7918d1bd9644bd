"""Plans of what a job would take on a cluster, from a short probe in this process and on one worker process that it starts on this machine:
`python -m pipeline plan`."""

from pipeline.planning.plan import Plan, PlanError, make_plan
from pipeline.planning.text import plan_text

__all__ = ["Plan", "PlanError", "make_plan", "plan_text"]
