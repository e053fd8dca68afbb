"""What others see of us: metrics, and the listener of transitions."""
