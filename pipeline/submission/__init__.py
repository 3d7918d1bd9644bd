"""Jobs for a batch queue: the script, its submission, and what became of it."""
