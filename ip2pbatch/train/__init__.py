"""The chain that makes a model: a runner and a module a stage."""
