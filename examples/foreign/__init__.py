"""A memory in models that AESG did not write: a residual network, and PyTorch's own encoder.

Each shows which lines make the difference. ``python -m examples.foreign.run`` trains both and asks
for what they were told once, after training.
"""
