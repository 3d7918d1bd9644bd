"""Data in partitions: what it is (`dataset`), where it comes from (`sources`, `readers`)."""
