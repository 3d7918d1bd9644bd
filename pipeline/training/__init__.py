"""The one loop of a fit, its history, and what watches it."""
