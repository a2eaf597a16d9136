"""What a data set has and what is said about it: manifests, targets, dialogues, features."""
