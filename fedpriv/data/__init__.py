"""Who holds what: federations, partitions, loaders."""
