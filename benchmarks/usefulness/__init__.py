"""Whether a memory helps: each task against twins without it, with controls and statistics.

Run it with ``python -m benchmarks.usefulness``.
"""
