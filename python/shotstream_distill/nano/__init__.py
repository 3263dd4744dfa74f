"""Training of the nano student on the drawn world: flow matching, then few-step distillation."""
