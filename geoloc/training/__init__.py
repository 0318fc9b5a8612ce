"""Training on Ray Train: pairs in memory, augmentation, the distributed loop, the stage."""
