"""fedpriv: what privacy costs in federated learning, what it guarantees, and against whom."""

__version__ = "0.1.0"
