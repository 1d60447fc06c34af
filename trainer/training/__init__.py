"""The training: from a checked configuration to a ready run, and the loop that takes its steps."""
