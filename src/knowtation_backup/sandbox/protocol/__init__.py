"""What clients see: envelopes, certificates, the HTTP interface, the HTTP gateway, and the ways to reach them."""
