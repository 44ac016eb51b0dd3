"""Students elsewhere: written in other formats, checked against the run, and measured."""
