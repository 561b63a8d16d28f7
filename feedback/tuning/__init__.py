"""Fine-tunings that clients ask for with a file: asked for and steered here, run by the loop."""
