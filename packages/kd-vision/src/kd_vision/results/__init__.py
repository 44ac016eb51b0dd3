"""What a classifier's predictions are made into: tables and a picture."""
