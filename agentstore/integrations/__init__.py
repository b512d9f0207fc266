"""agentstore in frameworks: one module each, imported by whoever uses that framework."""
