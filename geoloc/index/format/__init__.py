"""The files of an index: shards, manifest, snapshots made visible, copies on this host."""
