"""What clients own, between their turns: in memory and at rest."""
