// A picture to paint on. Python sends {picture, mask, kernel} (data URLs, each of them may be left out);
// what is painted is kept in props.value = {mask}.
const find = (what) => element.querySelector(what);
const frame = find(".painter-frame"), sheet = find(".painter-sheet"), photo = sheet.querySelector("img");
const mask = find("canvas"), paper = mask.getContext("2d", { willReadFrequently: true });
const ring = find(".painter-cursor"), note = find(".painter-kernel"), range = find("[data-brush]"), by = find("[data-by]");
const tools = [...element.querySelectorAll("[data-tool]")], painter = find(".painter");
const before = document.createElement("canvas"), kept = before.getContext("2d", { willReadFrequently: true });
const past = [], fingers = new Map(), TALLEST = 460, ROSE = [216, 27, 96, 255], MOST_KEPT = 100e6;
let tool = "paint", last = null, touched = null, cursor = null, view = { scale: 1, x: 0, y: 0 }, whole = true;
let grip = null, over = false, turn = 0;

function load(url) {
  return new Promise((done) => {
    if (!url) return done(null);
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = () => done(null);
    image.src = url;
  });
}

// The page hides the tools where nothing is to be painted.
const asked = () => tools[0].offsetParent !== null;
const full = () => painter.classList.contains("painter-full");
const size = () => [mask.width, mask.height, frame.clientWidth, frame.clientHeight];

function place() {
  if (whole) view = VIEW.fit(...size());
  sheet.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
  sheet.classList.toggle("painter-near", view.scale > 3);
  mask.style.touchAction = asked() || !whole ? "none" : "pan-y";
  find("[data-zoom=fit]").textContent = `${Math.round(100 * view.scale)} %`;
  painter.dataset.scale = view.scale;
  circle();
}

function zoom(factor, px = frame.clientWidth / 2, py = frame.clientHeight / 2) {
  view = VIEW.zoomed(view, factor, px, py, ...size());
  whole = view.scale <= VIEW.fit(...size()).scale * 1.0001;
  place();
}

function move(dx, dy) {
  view = VIEW.held({ ...view, x: view.x + dx, y: view.y + dy }, ...size());
  place();
}

function circle() {
  const shown = cursor && asked() && tool !== "move" && !grip;
  ring.hidden = !shown;
  if (!shown) return;
  const wide = Math.max(range.value * view.scale, 3);
  ring.style.width = ring.style.height = `${wide}px`;
  ring.style.transform = `translate(${view.x + cursor.x * view.scale - wide / 2}px, ${view.y + cursor.y * view.scale - wide / 2}px)`;
}

async function show() {
  const value = props.value || {}, mine = ++turn;
  if (value.picture) {
    const picture = await load(value.picture), painted = await load(value.mask);
    if (!picture || mine !== turn) return;
    photo.src = value.picture;
    for (const canvas of [mask, before]) [canvas.width, canvas.height] = [picture.width, picture.height];
    for (const side of [sheet, photo, mask])
      Object.assign(side.style, { width: `${picture.width}px`, height: `${picture.height}px` });
    frame.style.aspectRatio = `${picture.width} / ${picture.height}`;
    frame.style.width = `min(100%, ${(TALLEST * picture.width) / picture.height}px)`;
    if (painted) paper.drawImage(painted, 0, 0, mask.width, mask.height);
    kept.drawImage(mask, 0, 0);
    past.length = 0;
    [whole, cursor] = [true, null];
    const longer = Math.max(picture.width, picture.height);
    range.max = Math.max(80, Math.round(longer / 12));
    range.value = Math.max(14, Math.round(longer / 80));
    element.dataset.ready = `${picture.width}x${picture.height}`;
    // What Python has sent need not go back with every event.
    props.value = { mask: value.mask || "" };
  }
  if ("kernel" in value) {
    note.hidden = !value.kernel;
    note.querySelector("img").src = value.kernel || "data:,";
    note.querySelector("img").alt = "The blur, enlarged: bright where the light went";
    note.querySelector("figcaption").textContent = value.words || "";
    if (!value.picture) props.value = { mask: mask.toDataURL("image/png") };
  }
  place();
}

// What has changed since the last time is remembered for undo, and nothing else.
function tell(box) {
  const left = Math.max(Math.floor(box[0]), 0), top = Math.max(Math.floor(box[1]), 0);
  const width = Math.min(Math.ceil(box[2]), mask.width) - left, height = Math.min(Math.ceil(box[3]), mask.height) - top;
  if (width > 0 && height > 0) {
    past.push([kept.getImageData(left, top, width, height), left, top]);
    while (past.length > 1 && past.reduce((sum, [data]) => sum + data.data.length, 0) > MOST_KEPT) past.shift();
    kept.clearRect(left, top, width, height);
    kept.drawImage(mask, left, top, width, height, left, top, width, height);
  }
  say();
}

function say() {
  props.value = { mask: mask.toDataURL("image/png") };
  trigger("input");
}

function undo() {
  if (!past.length) return;
  for (const layer of [paper, kept]) layer.putImageData(...past.at(-1));
  past.pop();
  say();
}

function change(turned) {
  const { width, height } = mask, layer = paper.getImageData(0, 0, width, height), painted = new Uint8Array(width * height);
  for (let i = 0; i < painted.length; i++) painted[i] = Number(layer.data[4 * i + 3] > 127);
  const pixels = Math.min(Math.max(Math.round(Number(by.value)) || 0, 0), 500);
  turned(painted, width, height, pixels).forEach((v, i) => layer.data.set(v ? ROSE : [0, 0, 0, 0], 4 * i));
  paper.putImageData(layer, 0, 0);
  tell([0, 0, width, height]);
}

const inFrame = (event) => {
  const box = frame.getBoundingClientRect();
  return { x: event.clientX - box.left, y: event.clientY - box.top };
};
const onPicture = (event) => {
  const at = inFrame(event);
  return { x: (at.x - view.x) / view.scale, y: (at.y - view.y) / view.scale };
};

function stroke(from, to) {
  paper.globalCompositeOperation = tool === "erase" ? "destination-out" : "source-over";
  paper.strokeStyle = "#d81b60";
  paper.lineWidth = Number(range.value);
  paper.lineCap = "round";
  paper.beginPath();
  paper.moveTo(from.x, from.y);
  paper.lineTo(to.x + 0.01, to.y);
  paper.stroke();
  const reach = range.value / 2 + 2, box = touched || [Infinity, Infinity, -Infinity, -Infinity];
  touched = [
    Math.min(box[0], from.x - reach, to.x - reach), Math.min(box[1], from.y - reach, to.y - reach),
    Math.max(box[2], from.x + reach, to.x + reach), Math.max(box[3], from.y + reach, to.y + reach),
  ];
}

// A second finger takes back what the first one has begun to paint.
function drop() {
  if (last) {
    paper.clearRect(0, 0, mask.width, mask.height);
    paper.drawImage(before, 0, 0);
  }
  last = touched = null;
}

function pinch() {
  const [a, b] = [...fingers.values()];
  return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, apart: Math.hypot(a.x - b.x, a.y - b.y) || 1 };
}

mask.addEventListener("pointerdown", (event) => {
  mask.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, inFrame(event));
  if (fingers.size === 2) {
    drop();
    grip = pinch();
  } else if (fingers.size > 2 || event.button === 2) return;
  else if (!asked() || tool === "move" || event.button === 1) {
    grip = inFrame(event);
    event.preventDefault();
  } else {
    cursor = last = onPicture(event);
    paper.globalCompositeOperation = "source-over";
    stroke(last, last);
  }
  circle();
});
mask.addEventListener("pointermove", (event) => {
  cursor = onPicture(event);
  if (fingers.has(event.pointerId)) fingers.set(event.pointerId, inFrame(event));
  if (grip) {
    const now = fingers.size >= 2 ? pinch() : inFrame(event);
    if (now.apart && grip.apart) zoom(now.apart / grip.apart, now.x, now.y);
    move(now.x - grip.x, now.y - grip.y);
    grip = now;
  } else if (last) {
    stroke(last, cursor);
    last = cursor;
  }
  circle();
});
for (const name of ["pointerup", "pointercancel"])
  mask.addEventListener(name, (event) => {
    fingers.delete(event.pointerId);
    if (grip) grip = null;
    else if (last) {
      const box = touched;
      last = touched = null;
      tell(box);
    }
    circle();
  });
mask.addEventListener("pointerleave", () => {
  if (last) return;
  cursor = null;
  circle();
});
frame.addEventListener("pointerenter", () => (over = true));
frame.addEventListener("pointerleave", () => (over = false));
frame.addEventListener(
  "wheel",
  (event) => {
    // What shows the whole picture lets the page scroll on.
    if (whole && event.deltaY > 0 && !full()) return;
    event.preventDefault();
    const at = inFrame(event), steps = event.deltaMode === 0 ? event.deltaY / 100 : event.deltaY;
    zoom(Math.pow(1.25, -Math.min(Math.max(steps, -3), 3)), at.x, at.y);
  },
  { passive: false },
);

function resize(way) {
  const now = Number(range.value), next = way > 0 ? Math.max(now + 1, now * 1.2) : Math.min(now - 1, now / 1.2);
  range.value = Math.round(next);
  circle();
}

function screen(on) {
  painter.classList.toggle("painter-full", on);
  find("[data-zoom=full]").setAttribute("aria-pressed", on);
  if (on) painter.requestFullscreen?.().catch(() => {});
  else if (document.fullscreenElement) document.exitFullscreen();
  whole = true;
  place();
}
document.addEventListener("fullscreenchange", () => {
  if (!document.fullscreenElement && full()) screen(false);
});

// Keys are for whoever points at the picture, or has it in focus, and types nowhere.
document.addEventListener("keydown", (event) => {
  if (!element.isConnected || !(over || full() || element.contains(document.activeElement))) return;
  if (document.activeElement?.matches("input:not([type=range]):not([type=checkbox]):not([type=radio]), textarea")) return;
  const key = event.key, control = event.ctrlKey || event.metaKey;
  if (key === "Escape" && full()) screen(false);
  else if (control && key.toLowerCase() === "z" && asked()) undo();
  else if (control || event.altKey) return;
  else if (key === "[" || key === "]") resize(key === "]" ? 1 : -1);
  else if (key === "+" || key === "=") zoom(1.25);
  else if (key === "-") zoom(0.8);
  else if (key === "0") [whole] = [true], place();
  else return;
  event.preventDefault();
});
mask.addEventListener("keydown", (event) => {
  const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!asked() || (!way && event.key !== " ")) return;
  event.preventDefault();
  cursor = cursor || { x: mask.width / 2, y: mask.height / 2 };
  if (way) {
    const step = Math.max(1, range.value / 2);
    cursor = {
      x: Math.min(Math.max(cursor.x + way[0] * step, 0), mask.width),
      y: Math.min(Math.max(cursor.y + way[1] * step, 0), mask.height),
    };
    circle();
  } else {
    stroke(cursor, cursor);
    const box = touched;
    touched = null;
    tell(box);
  }
});
range.addEventListener("input", circle);
photo.addEventListener("dragstart", (event) => event.preventDefault());
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.tool) {
    tool = button.dataset.tool === tool && tool === "move" ? "paint" : button.dataset.tool;
    for (const other of tools) other.setAttribute("aria-pressed", other.dataset.tool === tool);
    painter.dataset.tool = tool;
  } else if (button.dataset.zoom === "full") screen(!full());
  else if (button.dataset.zoom === "fit") [whole] = [true], place();
  else if (button.dataset.zoom) zoom(button.dataset.zoom === "in" ? 1.5 : 1 / 1.5);
  else if (button.dataset.do === "clear") {
    paper.clearRect(0, 0, mask.width, mask.height);
    tell([0, 0, mask.width, mask.height]);
  } else if (button.dataset.do in MASKS) change(MASKS[button.dataset.do]);
  else if (button.dataset.do === "undo") undo();
});
new ResizeObserver(() => mask.isConnected && frame.clientWidth && place()).observe(frame);
watch("value", show);
show();
