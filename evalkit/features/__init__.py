"""One pass of the extractors over images, and the store of what they gave."""
