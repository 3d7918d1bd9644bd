"""For a fork server to import: its children have the kernels compiled that their fit needs, and come to its rounds at once."""

from tests.faults.test_checkpoint_writes import fit

fit(None)
