"""The loop's command groups; each loads only when it runs."""
