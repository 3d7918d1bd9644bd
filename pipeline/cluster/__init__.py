"""Clusters: connecting to one (`connect`: a scheduler, processes here, jobs in a queue), and whether its workers run this code (`code`)."""
