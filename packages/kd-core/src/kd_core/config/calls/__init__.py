"""What a config may call, and calling it."""
