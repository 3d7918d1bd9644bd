"""Whether a run comes out again: its record, and the comparison with it."""
