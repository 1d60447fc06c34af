"""Curves and pictures for trackers, progress displays in the terminal, and a health watch."""
