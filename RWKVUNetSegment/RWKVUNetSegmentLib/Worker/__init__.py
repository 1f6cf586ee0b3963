"""The worker process that computes: its client, start, end, and what is sent to it."""
