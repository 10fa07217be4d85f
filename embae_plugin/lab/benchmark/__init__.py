"""Measures this package against stock torchreid on the same data, and against the machine."""
