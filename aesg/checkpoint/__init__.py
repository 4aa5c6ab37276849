"""Checkpoints: weights, optimizer, memory and the state of training, whole or absent.

::

    model_weights.pt       state_dict of the model
    optimizer_state.pt     state_dict of the optimizer
    trainer_state.pt       random numbers, order of samples, scheduler, callbacks; for resuming
    config.json            AESGConfig of the memory, and what model, optimizer and trainer are
    training_state.json    epoch, global_step, best_loss, history
    memory/                a consistent copy of the memory
    manifest.json          size and SHA-256 of each of these files
"""

from aesg.checkpoint.loading import CheckpointState, load_checkpoint
from aesg.checkpoint.saving import save_checkpoint

__all__ = ["CheckpointState", "load_checkpoint", "save_checkpoint"]
