"""Image geo-localization at city and country scale."""
