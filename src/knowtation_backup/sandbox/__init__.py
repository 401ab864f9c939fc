"""A small Internet Computer in one process, for quickstarts, tests, drills and benchmarks (extra ``sandbox``)."""
