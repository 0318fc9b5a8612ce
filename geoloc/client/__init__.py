"""Asking a running service: what travels over HTTP, and clients for programs. No Ray, no model, no web framework."""
