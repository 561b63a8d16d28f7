"""The loop: schedule, cycle, fine-tuning, evaluation and gate."""
