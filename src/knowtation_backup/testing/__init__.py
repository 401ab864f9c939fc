"""For authors of sinks and sources: contract suites, faults and fakes. Needs pytest."""
