"""Checking a plan without data."""
