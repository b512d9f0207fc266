"""Breaks things on purpose, and compares what was acknowledged with what is stored.

`writer.py` is a child program that writes and keeps a log of each intent and each acknowledgement; `audit.py` compares
the logs with the store; `proxy.py` is a network that fails; `scenarios.py` puts them together. The tests beside them
play each scenario once, briefly; `python tests/faults` (`make faults`) plays them at length. All of it uses the public
interface of agentstore alone.
"""
