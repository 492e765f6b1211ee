"""Networks: backbones with their geometry, poolings, the classifier, the bundle."""
