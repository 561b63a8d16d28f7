"""Files of training rows: read as they come, in many forms, kept in one."""
