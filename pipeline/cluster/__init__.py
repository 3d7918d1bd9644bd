"""Clusters: connecting to one (`connect`), and whether its workers run this code (`code`)."""
