"""What is known of genes and conditions: vocabulary, names, regulators, prior network, orthologs."""
