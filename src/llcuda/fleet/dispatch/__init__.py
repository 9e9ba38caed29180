"""Which worker answers a request, and when: the queue, the choice, the connections, the watch over progress."""
