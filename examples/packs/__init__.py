"""Packs at work: what one copy of a network has read, another copy knows while a pack is attached.

``python -m examples.packs.run`` trains a small language model, lets copies of it read a topic each,
exports what their memories hold, and attaches the packs to a fresh copy.
"""
