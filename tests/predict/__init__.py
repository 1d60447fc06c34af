"""Tests of `trainer.predict`."""
