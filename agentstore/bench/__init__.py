"""How fast a store is, measured in a way that others can repeat: `agentstore bench`."""
