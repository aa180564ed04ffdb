"""Plans, their resolution, the round and the executors."""
