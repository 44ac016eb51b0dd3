"""From text to marked data: nothing is imported, nothing runs."""
