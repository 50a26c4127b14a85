"""Plots: series of numbers, and what draws them. Imports no TensorFlow; matplotlib where it draws."""
