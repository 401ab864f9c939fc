"""Orders messages: call contexts, queues, timers, the ingress history, and queries."""
