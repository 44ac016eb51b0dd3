"""Reading data: batches, random numbers, subsets and loaders that all tasks share."""
