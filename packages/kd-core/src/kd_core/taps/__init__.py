"""Names of tensors inside models, the hooks that read them, and edits of a model's modules."""
