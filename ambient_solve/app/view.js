// Where a picture stands in its frame: `scale` is screen pixels per picture pixel, (x, y) its top left corner there.
const VIEW = {
  most: 40,
  fit: (width, height, w, h) => {
    const scale = Math.min(w / width, h / height);
    return { scale, x: (w - scale * width) / 2, y: (h - scale * height) / 2 };
  },
  // Zoomed by `factor` about a point of the frame that stays where it is, never smaller than the whole picture.
  zoomed: (view, factor, px, py, width, height, w, h) => {
    const whole = VIEW.fit(width, height, w, h);
    const scale = Math.min(Math.max(view.scale * factor, whole.scale), Math.max(VIEW.most, whole.scale));
    const x = px - ((px - view.x) * scale) / view.scale, y = py - ((py - view.y) * scale) / view.scale;
    return VIEW.held({ scale, x, y }, width, height, w, h);
  },
  // The nearest view without an empty border where the picture is larger than the frame; centered where it is smaller.
  held: (view, width, height, w, h) => {
    const side = (at, picture, frame) => {
      const room = frame - view.scale * picture;
      return room >= 0 ? room / 2 : Math.min(Math.max(at, room), 0);
    };
    return { scale: view.scale, x: side(view.x, width, w), y: side(view.y, height, h) };
  },
};
