"""The way from users' partitions to shards of rows: reading, checking, statistics."""
