"""Clusters whose workers are jobs in a queue: SLURM and others."""
