"""How good a model is: curves, benchmarks, tables."""
