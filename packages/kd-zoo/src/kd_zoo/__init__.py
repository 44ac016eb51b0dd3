"""CIFAR models, their published weights, and where those come from."""
