"""Benchmarks of others in their published layouts: edited through a recipe, then judged by a model, or measured."""
