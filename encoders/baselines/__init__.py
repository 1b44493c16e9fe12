"""What Freshet's ranking is measured against: each recommender in a file of its own, behind one contract."""
