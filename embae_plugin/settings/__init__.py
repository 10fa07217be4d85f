"""Configurations: torchreid's tree and EmbAE's node, files, checks."""
