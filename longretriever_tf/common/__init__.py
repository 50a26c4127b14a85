"""What every part uses and nothing else belongs to: errors, files, locks, text, progress. No TensorFlow."""
