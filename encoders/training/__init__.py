"""Training, one readable script a task: arrays and texts in, arrays out. What is on the disk is the caller's."""
