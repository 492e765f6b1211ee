"""Where in the picture: heat maps, their place, and boxes round them."""
