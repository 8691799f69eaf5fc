"""What the chest CT starter is made of: lungs' borders, blobs in them, and the network that judges these."""
