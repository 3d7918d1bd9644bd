"""What a round asks of the workers, and what its sums do to the states of a fit."""
