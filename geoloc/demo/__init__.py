"""The demo: all stages in one go, then photos posted to the running service."""
