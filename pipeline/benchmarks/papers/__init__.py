"""Shapes of published results, each computed again: what a paper's figure says must come out here, too."""
