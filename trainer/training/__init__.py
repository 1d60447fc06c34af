"""Training: setting up a run from its configuration, and the loop that takes its steps."""
