"""Hash codes on storage and the search in them: shards, manifest, snapshots (no Ray inside)."""
