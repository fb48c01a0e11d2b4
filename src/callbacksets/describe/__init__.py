"""Describing callbacks: their ids, their parameters, and the dictionary of predefined ones."""
