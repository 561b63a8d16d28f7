"""What `starloop data check` looks at before anybody trains on a file."""
