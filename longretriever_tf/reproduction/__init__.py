"""Runs a plan of experiments and reports them: plan -> jobs -> results -> report. Needs no TensorFlow itself."""
