"""What `AESGTrainer` is made of: passes through a model, steps, random numbers, keys."""
