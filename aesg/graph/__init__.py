"""The algorithms of the memory, as functions of arrays; no torch."""
