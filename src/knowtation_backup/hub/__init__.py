"""The Knowtation hub's HTTP interface, as a client sees it."""
