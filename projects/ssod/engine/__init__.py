"""The trainer: the step, the loop around it, checkpoints and processes."""
