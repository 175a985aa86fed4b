"""Training: fine-tuning on answers, and what every way of learning shares."""
