"""Who may do what: keys, and tokens that allow one feedback."""
