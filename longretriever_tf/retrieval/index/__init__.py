"""The indices that are searched category by category: exact, or by ScaNN where it is faster at the same recall."""
