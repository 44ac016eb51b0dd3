"""Texts: tasks, tables, encoding, loading."""
