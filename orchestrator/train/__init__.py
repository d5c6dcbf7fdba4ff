"""The trainer: models, tasks, optimizer, schedule, the engine (DeepSpeed) and the loop."""
