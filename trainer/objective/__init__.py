"""The objective of the training: networks -> predictions -> scene -> weighted losses, in one module."""

from trainer.objective.objective import Objective

__all__ = ["Objective"]
