"""What agentstore costs, beside the same work on the bare driver: `agentstore bench`.

Machines are noisy and ratios travel. So whatever is compared is done in one run, in turns, and what counts is the
median of the ratios of each turn.
"""
