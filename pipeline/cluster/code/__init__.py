"""The code that workers run: what they must have, and how it gets there."""
