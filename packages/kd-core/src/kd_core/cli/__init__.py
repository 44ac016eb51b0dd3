"""The commands that every task package has."""
