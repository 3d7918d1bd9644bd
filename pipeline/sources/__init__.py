"""Where partitions come from, and errors that say so."""
