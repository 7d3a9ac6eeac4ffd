"""Train texture networks with each normaliser on each condition, and log their curves."""

from statsnorm.training.run import train

__all__ = ["train"]
