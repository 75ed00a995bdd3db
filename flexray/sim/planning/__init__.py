"""Before the first round: what is measured and reckoned, what is chosen from it, and what is refused."""
