"""How good it is: ranks and their ties, metrics, sanity gates, the report."""
