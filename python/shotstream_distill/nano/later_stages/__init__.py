"""The stages behind nano's distillation; each begins with a finished student and leaves another."""
