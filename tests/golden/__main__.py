"""Write the digests of the table of fits."""

from tests.golden.digests import write

write()
