"""The stream processors: from two topics to fresh lists."""
