"""The roles' assembly: settings become parts, and the parts become one running worker."""
