"""Models in and out: Hugging Face directories, DeepSpeed's checkpoints, and what each tensor is called there."""
