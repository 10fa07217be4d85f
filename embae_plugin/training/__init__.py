"""What trains any method: the loop, its stages, resuming, scoring."""
