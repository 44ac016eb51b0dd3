"""A validated, fully resolved config."""
