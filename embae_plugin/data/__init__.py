"""Images, features, samplers and datasets."""
