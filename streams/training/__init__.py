"""What training keeps on the disk: checkpoints, logs, searches, and what it reads."""
