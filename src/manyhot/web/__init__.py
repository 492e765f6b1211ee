"""The gallery: a page on this machine where people look through what a model thinks, and mend labels."""
