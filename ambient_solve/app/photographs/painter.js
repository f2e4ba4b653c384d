// A picture to paint on. Python sets props.value = {picture, mask} (data URLs); a stroke sets {mask}.
const canvas = element.querySelector("canvas"), screen = canvas.getContext("2d");
const mask = document.createElement("canvas"), paper = mask.getContext("2d", { willReadFrequently: true });
const range = element.querySelector("[data-brush]"), by = element.querySelector("[data-by]"), tools = [...element.querySelectorAll("[data-tool]")];
const past = [], TALLEST = 460, ROSE = [216, 27, 96, 255];
let picture = null, tool = "paint", last = null, cursor = null;

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

function draw() {
  screen.clearRect(0, 0, canvas.width, canvas.height);
  if (picture) screen.drawImage(picture, 0, 0);
  screen.globalAlpha = 0.75;
  screen.drawImage(mask, 0, 0);
  screen.globalAlpha = 1;
  if (!cursor || !asked()) return;
  for (const [width, colour] of [[3, "white"], [1, "black"]]) {
    screen.lineWidth = width;
    screen.strokeStyle = colour;
    screen.beginPath();
    screen.arc(cursor.x, cursor.y, range.value / 2, 0, 2 * Math.PI);
    screen.stroke();
  }
}

async function show() {
  const value = props.value || {};
  if (!value.picture) return;
  picture = await load(value.picture);
  if (!picture) return;
  canvas.width = mask.width = picture.width;
  canvas.height = mask.height = picture.height;
  canvas.style.width = `min(100%, ${(TALLEST * picture.width) / picture.height}px)`;
  const painted = await load(value.mask);
  if (painted) paper.drawImage(painted, 0, 0);
  past.length = 0;
  draw();
  element.dataset.ready = `${picture.width}x${picture.height}`;
}

function keep() {
  past.push(paper.getImageData(0, 0, mask.width, mask.height));
  if (past.length > 20) past.shift();
}

function change(turned) {
  const { width, height } = mask, layer = paper.getImageData(0, 0, width, height), painted = new Uint8Array(width * height);
  for (let i = 0; i < painted.length; i++) painted[i] = Number(layer.data[4 * i + 3] > 127);
  const pixels = Math.min(Math.max(Math.round(Number(by.value)) || 0, 0), 500);
  turned(painted, width, height, pixels).forEach((v, i) => layer.data.set(v ? ROSE : [0, 0, 0, 0], 4 * i));
  paper.putImageData(layer, 0, 0);
}

function tell() {
  props.value = { mask: mask.toDataURL("image/png") };
  trigger("input");
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  const x = ((event.clientX - box.left) * canvas.width) / box.width;
  return { x, y: ((event.clientY - box.top) * canvas.height) / box.height };
}

function stroke(from, to) {
  paper.globalCompositeOperation = tool === "erase" ? "destination-out" : "source-over";
  paper.strokeStyle = "#d81b60";
  paper.lineWidth = Number(range.value);
  paper.lineCap = "round";
  paper.beginPath();
  paper.moveTo(from.x, from.y);
  paper.lineTo(to.x + 0.01, to.y);
  paper.stroke();
  draw();
}

canvas.addEventListener("pointerdown", (event) => {
  if (!asked()) return;
  canvas.setPointerCapture(event.pointerId);
  keep();
  cursor = last = place(event);
  stroke(last, last);
});
canvas.addEventListener("pointermove", (event) => {
  cursor = place(event);
  if (last) {
    stroke(last, cursor);
    last = cursor;
  } else draw();
});
for (const name of ["pointerup", "pointercancel"])
  canvas.addEventListener(name, () => {
    if (!last) return;
    last = null;
    tell();
  });
canvas.addEventListener("pointerleave", () => {
  if (last) return;
  cursor = null;
  draw();
});
canvas.addEventListener("keydown", (event) => {
  const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!asked() || (!way && event.key !== " ")) return;
  event.preventDefault();
  cursor = cursor || { x: canvas.width / 2, y: canvas.height / 2 };
  if (way) {
    const step = Math.max(1, range.value / 2);
    cursor = {
      x: Math.min(Math.max(cursor.x + way[0] * step, 0), canvas.width),
      y: Math.min(Math.max(cursor.y + way[1] * step, 0), canvas.height),
    };
    draw();
  } else {
    keep();
    stroke(cursor, cursor);
    tell();
  }
});
range.addEventListener("input", draw);
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.tool) {
    tool = button.dataset.tool;
    for (const other of tools) other.setAttribute("aria-pressed", other === button);
  } else if (button.dataset.do === "clear") {
    keep();
    paper.clearRect(0, 0, mask.width, mask.height);
    draw();
    tell();
  } else if (button.dataset.do in MASKS) {
    keep();
    change(MASKS[button.dataset.do]);
    draw();
    tell();
  } else if (past.length) {
    paper.putImageData(past.pop(), 0, 0);
    draw();
    tell();
  }
});
watch("value", show);
show();
