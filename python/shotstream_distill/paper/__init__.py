"""The paper's pipeline: teacher, ODE initialisation, two stages of self-forcing distillation."""
