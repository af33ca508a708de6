"""Whether an image shows any of a network's classes: scores of novelty, from logits, features, or both."""
