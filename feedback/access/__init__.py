"""Who may do what, and who did: keys, sessions of the pages, tokens that allow one feedback, the audit log."""
