"""What a pass does, as plain numbers: cache policies, noise levels, addressed noise."""
