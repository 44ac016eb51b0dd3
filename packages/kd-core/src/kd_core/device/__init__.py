"""Where and how a run computes: devices, precision, processes."""
