"""Who holds what: federations, partitions, loaders."""

from fedpriv.data.build import federate
from fedpriv.data.federation import Client, Federation
from fedpriv.data.loaders import breast_cancer, digits, heart_disease, mnist, sms_spam, standardise
from fedpriv.data.partitions import IID, Dirichlet, Natural, Partition, Shards

__all__ = [
    "IID",
    "Client",
    "Dirichlet",
    "Federation",
    "Natural",
    "Partition",
    "Shards",
    "breast_cancer",
    "digits",
    "federate",
    "heart_disease",
    "mnist",
    "sms_spam",
    "standardise",
]
