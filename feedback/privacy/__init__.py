"""What may be kept about people, for how long, and how it goes again."""
