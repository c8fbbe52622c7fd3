"""The command line: turns strings into objects, prints, and nothing else."""
