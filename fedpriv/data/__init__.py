"""Who holds what: federations, partitions, loaders."""

from fedpriv.data.federation import Client, Federation

__all__ = ["Client", "Federation"]
