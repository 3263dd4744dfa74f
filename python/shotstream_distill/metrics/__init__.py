"""What is measured on a film: facts, consistency, cuts, motion, quality, and their intervals."""
