"""Categories for a catalogue that has none, asked of a language model: taxonomy, assignment, cache, report."""
