"""Fits whose parameters are known to the bit, and the file that holds their digests.

`python -m tests.golden` writes the digests of this machine's kind into tests/golden/digests.json: run it where answers change on purpose,
in a commit that says so. `python -m pytest -m slow tests/golden` compares.
"""
