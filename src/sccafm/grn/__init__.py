"""Per-cell networks: inference, result, storage, contexts, provenance."""
