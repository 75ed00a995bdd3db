"""What one process does with its clients: batches, local steps, scoring, generation."""
