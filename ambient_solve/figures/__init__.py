"""Contact sheets and charts, drawn with Pillow."""
