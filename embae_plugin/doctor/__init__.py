"""Checks of an installation: each finding says what is there, or the command that fixes it.

Nothing here imports torch, torchreid or anything else that may be broken before it is checked.
"""
