"""The forms a catalogue may come in, each read as the same records: items with photos, and held-out
queries."""
