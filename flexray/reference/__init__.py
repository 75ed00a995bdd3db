"""What the config's keys mean, made from the code: a JSON schema for editors, and a page to read."""
