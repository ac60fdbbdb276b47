"""Transfers: artifacts from registries into the store and back, one job per blob and per artifact."""
