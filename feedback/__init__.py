"""The record: what was asked, answered and said, and what datasets and versions were made of it."""
