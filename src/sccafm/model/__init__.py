"""Loaded models: layout of releases, weights, forward pass, validation of settings."""
