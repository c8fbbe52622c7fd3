"""A solver that is learned: where to start, and how to mix the last few states."""
