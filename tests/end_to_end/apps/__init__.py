"""The applications that are run."""
