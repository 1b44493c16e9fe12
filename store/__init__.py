"""What is kept: products, users, vectors, checkpoints."""
