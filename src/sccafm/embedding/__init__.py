"""Embeddings of cells and genes: the call, its result, adaptation to the data at hand."""
