"""Together's API under `/together`, as its client calls it: another door to files, fine-tunings and models."""
