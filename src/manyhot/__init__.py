"""manyhot: image-level labels in; a measured multi-label classifier, ranked pictures and boxes out."""
