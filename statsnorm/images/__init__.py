"""Images and what is done to them before any network sees them."""
