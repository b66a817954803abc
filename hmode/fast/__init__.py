"""What makes it fast, on CPUs and GPUs, and changes results by rounding only."""
