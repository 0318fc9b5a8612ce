"""The running service: schema and limits of its API, and its deployments on Ray Serve."""
