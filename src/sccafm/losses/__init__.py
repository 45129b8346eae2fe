"""Training objectives: tensors in, scalar out."""
