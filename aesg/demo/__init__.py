"""A language model with a memory, trained and read on text of this machine."""
