"""How parameters move: one file an algorithm, pure functions over arrays. `base` holds the protocol."""
