"""What a gateway shows of itself: metrics, history, the audit log and traces."""
