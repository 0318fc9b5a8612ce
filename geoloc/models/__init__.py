"""Networks of geoloc: backbones, aggregation, hash head, the n-branch model, its files and its encoder."""
