"""Benchmarks: we and our peers in turn on the same work; what counts is the ratio, not the machine.

.venv/bin/python -m benchmarks --help
"""
