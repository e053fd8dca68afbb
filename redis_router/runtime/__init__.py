"""What every thread of ours stands on: waking it, keeping it alive, and the log."""
