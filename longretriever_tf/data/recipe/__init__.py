"""What goes beyond the paper: statistics, item SVD, history embeddings, learned contexts, the interest model's
features.
"""
