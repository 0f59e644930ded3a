"""Flow of a configuration, from sources to targets: as a graph, in diagrams, and as AsyncAPI."""
