"""What a run shows: curves and pictures for the trackers, progress in the terminal, a watch on its health."""
