"""Which worker holds which rows, and how rows move."""
