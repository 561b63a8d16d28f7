"""`starloop demo`: simulated users with known ground truth, who know Starloop only through HTTP."""
