"""HTTP: connections, requests, routes, who may ask, and the writing of answers."""
