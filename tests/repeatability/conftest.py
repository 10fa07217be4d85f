"""Runs that are compared to the last bit run with one thread."""

from tests.threads import one_thread

__all__ = ["one_thread"]
