"""Verbs: what people call. Each is its options and its policy over the engine."""
