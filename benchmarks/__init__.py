"""What the README's figures come from, and the soak that looks for faults."""
