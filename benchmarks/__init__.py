"""What the documents' figures come from, and the soak that looks for faults."""
