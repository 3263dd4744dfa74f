"""Pure-torch twins of every kernel: slow, obvious, differentiable, the definition of correct."""
