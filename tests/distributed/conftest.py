"""Ranks run with one thread, and so must what they are compared with."""

from tests.threads import one_thread

__all__ = ["one_thread"]
