"""Ray plumbing: the session, tables made part by part, shards built in parallel."""
