"""Makers of the chain of each network."""
