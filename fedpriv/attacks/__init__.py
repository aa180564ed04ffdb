"""What an observer can do with what it saw. Empty until its issue; the ledger and the views are its inputs."""
