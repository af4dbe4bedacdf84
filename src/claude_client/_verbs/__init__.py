"""Verbs: the functions and classes that people call. Each adds its options and its policy to the engine."""
