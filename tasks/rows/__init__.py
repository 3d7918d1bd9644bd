"""Rows where they live: groups of partitions, targets, digests, batches."""
