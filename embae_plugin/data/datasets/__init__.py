"""Data sets that torchreid lacks: the built-in procedural cameras, and WARD."""
