"""The command ``embae``: one module for each verb."""
