"""Sources of partitions, and errors that say where one comes from."""
