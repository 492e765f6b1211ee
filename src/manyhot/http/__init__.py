"""What every server of ours needs: an address, who may ask, answers that say what is wrong."""
