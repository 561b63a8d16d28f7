"""Processes as the operating system knows them: started, watched, written down, ended with all they left behind."""
