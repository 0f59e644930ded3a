"""Views of daemons for people and machines: status, metrics, live streams, and answers of several daemons."""
