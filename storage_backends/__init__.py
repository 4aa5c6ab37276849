"""Storage of an AESG memory: records, seed lookup and adjacency, without torch."""
