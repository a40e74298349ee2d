"""The owner of jobs."""
