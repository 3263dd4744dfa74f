"""Training of the student and everything measured on it; never imported by the runtime."""
