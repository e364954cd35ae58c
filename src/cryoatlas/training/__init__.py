"""The neural engine: objective, schedule, loop and checkpoints."""
