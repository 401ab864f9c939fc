"""What is done with archives of a repository: one verb a module, one report a verb."""
