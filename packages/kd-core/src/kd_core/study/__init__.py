"""Studies: many runs of one file, by several processes, and the tables that compare them."""
