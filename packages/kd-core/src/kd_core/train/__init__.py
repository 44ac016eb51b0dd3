"""Training: components, the objective, the loop, validation, state."""
