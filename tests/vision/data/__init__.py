"""Tests of the data of image classification."""
