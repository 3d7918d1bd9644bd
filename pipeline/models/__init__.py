"""Fitted models as files, and what they predict for files."""
