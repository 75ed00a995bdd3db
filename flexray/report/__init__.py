"""What a person or a script sees of plans, runs and partitions."""
