"""From an AnnData to tensors: which values are read, gene names, species, conditions, tokens."""
