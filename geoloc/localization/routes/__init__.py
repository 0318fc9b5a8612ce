"""Where a sequence of photos was taken: the published enumeration of routes, and a hidden Markov filter."""
