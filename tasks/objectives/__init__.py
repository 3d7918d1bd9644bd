"""Objectives: losses, penalties, linear models, networks. The names here are those that a model of one's own needs (docs/own-models.md)."""

from tasks.objectives.base import GramSums, HessianSums, HessianVectorSums, Layout, Objective, Scored, Sums, add_sums
from tasks.objectives.linear import LinearObjective

__all__ = [
    "GramSums",
    "HessianSums",
    "HessianVectorSums",
    "Layout",
    "LinearObjective",
    "Objective",
    "Scored",
    "Sums",
    "add_sums",
]
