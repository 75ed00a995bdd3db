"""How fast and how large flexray is, beside peers that do the same work in the same run. Each file is one question."""
