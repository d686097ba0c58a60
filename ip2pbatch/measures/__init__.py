"""What is measured of pictures by networks: LPIPS, CLIP and DINO, for sheets and for the evaluator."""
