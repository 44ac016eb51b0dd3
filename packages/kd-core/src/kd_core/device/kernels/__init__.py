"""Kernels for training convolutional networks on a CPU, in C++, and how a model's graph is made to use them."""
