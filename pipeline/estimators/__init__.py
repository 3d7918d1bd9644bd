"""Thin scikit-learn shells, one file a family; `base` holds what they share, `solvers` which strategy a name means."""
