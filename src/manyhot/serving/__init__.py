"""A trained model that answers over HTTP: pictures in, scores and heat maps out."""
