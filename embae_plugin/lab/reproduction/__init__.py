"""The paper's tables: what it printed, what runs it takes, ours beside them."""
